// Everything that the picture shows, and more, as lists and tables.

import { make, write } from "./dom.js";
import { HEALTH, figures, keyOf, many, worst } from "./words.js";

/** The word for how a link is; its colour only repeats it. */
function health(link) {
  const { word, sign } = HEALTH[link.health];
  return make("span", { class: `health ${link.health}` }, sign === "" ? word : `${sign} ${word}`);
}

/** The figures of one link. */
export function showFigures(element, link) {
  if (link === undefined) {
    element.replaceChildren(make("p", {}, "No link is chosen."));
    return;
  }
  const ways = link.ways.flatMap((way) => [
    make("h3", {}, `${way.from} to ${way.to}`),
    make("dl", {}, ...figures(way).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
  ]);
  element.replaceChildren(
    make("p", {}, make("strong", {}, `${link.a} – ${link.b}`), " ", health(link)),
    ...link.why.map((why) => make("p", {}, why)),
    ...ways,
  );
}

/** So many rows are shown until all are asked for. */
const ROWS = 60;

/** The table of links, in which rows stay where they are while their figures change. */
export class LinkTable {
  constructor(element, choose) {
    this.element = element;
    this.choose = choose;
    this.rows = new Map();
    this.body = make("tbody");
    const heading = (text, ...classes) => make("th", { scope: "col", class: classes.join(" ") || undefined }, text);
    this.table = make("table", {},
      make("caption", { class: "hidden" }, "Links between locations; the figures are the worse ones of both directions"),
      make("thead", {}, make("tr", {}, heading("Link"), heading("Health"), heading("Round trip"), heading("Loss"),
        heading("Failovers", "wide"))),
      this.body);
    this.none = make("p", {});
    this.rest = make("button", { type: "button" });
    this.rest.addEventListener("click", () => {
      this.whole = true;
      this.show(this.links, this.all);
      this.body.children[ROWS].querySelector("button").focus();
    });
    this.whole = false;
    element.replaceChildren(this.none, this.table, this.rest);
  }

  /** Shows these links, of so many. */
  show(asked, all) {
    [this.links, this.all] = [asked, all];
    const links = this.whole ? asked : asked.slice(0, ROWS);
    this.rest.hidden = links.length === asked.length;
    write(this.rest, `Show all ${asked.length} links`);
    this.table.hidden = links.length === 0;
    this.none.hidden = links.length !== 0;
    write(this.none, all === 0 ? "There is no link: a mesh has links from two locations on." : "No link is like this.");
    const keys = new Set(links.map(keyOf));
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.row.remove();
      this.rows.delete(key);
    }
    links.forEach((link, index) => {
      const row = this.rows.get(keyOf(link)) ?? this.add(link);
      if (this.body.children[index] !== row.row) this.body.insertBefore(row.row, this.body.children[index] ?? null);
      if (row.health !== link.health) row.cells[0].replaceChildren(health(link));
      row.health = link.health;
      write(row.cells[1], worst(link, "rttMilliseconds", (rtt) => `${rtt.toFixed(1)} ms`));
      write(row.cells[2], worst(link, "loss", (loss) => `${(loss * 100).toFixed(1)} %`));
      write(row.cells[3], worst(link, "failovers", (count) => `${count}`));
    });
  }

  add(link) {
    const key = keyOf(link);
    const button = make("button", { type: "button", "aria-controls": "figures-body" }, `${link.a} – ${link.b}`);
    for (const event of ["focus", "click", "pointerenter"]) button.addEventListener(event, () => this.choose(key));
    const cells = [make("td"), ...["number", "number", "number wide"].map((name) => make("td", { class: name }))];
    const row = { row: make("tr", {}, make("th", { scope: "row" }, button), ...cells), cells, health: null };
    this.rows.set(key, row);
    return row;
  }

  mark(key) {
    for (const [other, { row }] of this.rows) row.classList.toggle("chosen", other === key);
  }
}

/** The nodes of locations. */
export function showLocations(element, locations, open) {
  if (locations.length === 0) {
    element.replaceChildren(make("p", {}, "No location is like this."));
    return;
  }
  const cards = locations.map((location) => {
    const led = (role, sign) => location.leaders.filter((leader) => leader.role === role)
      .map((leader) => make("li", {}, `${sign} ${leader.name}, ${role} leader`));
    const leaders = [...led("active", "▲"), ...led("standby", "△")];
    const parts = [make("h3", {}, location.name), make("p", { class: "quiet" },
      `Ready: ${location.ready}`, location.endpoint === null ? "" : `, endpoint ${location.endpoint}`)];
    parts.push(leaders.length === 0 ? make("p", {}, "It has no leader.") : make("ul", { class: "plain" }, ...leaders));
    if (location.followers.length > 0) {
      const details = make("details", { open: open.has(location.name) },
        make("summary", {}, many(location.followers.length, "follower")),
        make("ul", { class: "plain" }, ...location.followers.map((name) => make("li", {}, name))));
      details.addEventListener("toggle", () => open[details.open ? "add" : "delete"](location.name));
      parts.push(details);
    }
    return make("li", { class: "card" }, ...parts);
  });
  element.replaceChildren(make("ul", { class: "cards" }, ...cards));
}

/** The Peers. */
export function showPeers(element, peers) {
  if (peers.length === 0) {
    element.replaceChildren(make("p", {}, "No Peer is like this."));
    return;
  }
  const items = peers.map((peer) => {
    const at = peer.attachments.length > 0 ? `attached to ${peer.attachments.join(", ")}` : "attached to no location";
    const home = peer.home === null ? "" : `, home ${peer.home}`;
    return make("li", {}, make("strong", {}, `◇ ${peer.name}`), `: ${at}${home}, Ready: ${peer.ready}`);
  });
  element.replaceChildren(make("ul", { class: "plain" }, ...items));
}

/** What is wrong, the worst first. */
export function showTrouble(element, trouble) {
  const findings = trouble.findings.map((finding) => make("li", {},
    make("strong", {}, finding.severity), `: ${finding.object}: ${finding.reason}. ${finding.evidence} `,
    make("span", {}, "Next: ", make("code", {}, finding.next))));
  const notes = trouble.notes.map((note) => make("li", {}, make("strong", {}, "Unknown"), `: ${note}`));
  const well = trouble.findings.every((finding) => finding.severity === "Note");
  const list = [...notes, ...findings];
  element.replaceChildren(
    ...(well && notes.length === 0 ? [make("p", {}, "Nothing is wrong.")] : []),
    ...(list.length > 0 ? [make("ul", { class: "plain" }, ...list)] : []),
  );
}

const EVENTS = { failover: "Failover", leader: "New leader", down: "Down", up: "Up again" };

/** The log, the newest first; what stands there stays, so that only what is new is read aloud. */
export class Log {
  constructor(element) {
    this.element = element;
    this.list = null;
    this.newest = 0;
  }

  show(entries) {
    const oldest = entries.length > 0 ? entries[0].id : 0;
    // Another run of the program counts from the beginning.
    if (entries.length === 0 || entries[entries.length - 1].id < this.newest) this.clear();
    if (entries.length === 0) return;
    if (this.list === null) {
      this.list = make("ol", { class: "plain" });
      this.element.replaceChildren(this.list);
      this.element.setAttribute("tabindex", "0");
    }
    for (const entry of entries.filter(({ id }) => id > this.newest)) {
      const at = new Date(entry.at);
      this.list.prepend(make("li", { "data-id": `${entry.id}` },
        make("time", { datetime: at.toISOString() }, at.toLocaleTimeString()), " ",
        make("strong", {}, EVENTS[entry.event] ?? entry.event), `: ${entry.text}`));
      this.newest = entry.id;
    }
    for (const item of Array.from(this.list.children)) {
      if (Number(item.dataset.id) < oldest) item.remove();
    }
  }

  clear() {
    this.newest = 0;
    this.list = null;
    this.element.removeAttribute("tabindex");
    this.element.replaceChildren(make("p", {}, "Nothing has changed yet."));
  }
}
