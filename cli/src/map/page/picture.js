// The picture: one stop of the Tab key; arrow keys, Home and End go from link to link.

import { draw, write } from "./dom.js";
import { layout } from "./layout.js";
import { HEALTH, keyOf, many, sentence } from "./words.js";

const BACK = ["ArrowLeft", "ArrowUp"];
const ON = ["ArrowRight", "ArrowDown"];

/** What fits; names often differ at their ends. */
function short(text, length) {
  const letters = Array.from(text);
  if (letters.length <= length) return text;
  const end = Math.floor((length - 1) / 2);
  return `${letters.slice(0, length - 1 - end).join("")}…${end > 0 ? letters.slice(-end).join("") : ""}`;
}

/** The lines in the box of a location. */
function lines(location, peers) {
  const led = (role, sign) => {
    const names = location.leaders.filter((leader) => leader.role === role).map((leader) => leader.name);
    const more = names.length > 1 ? ` +${names.length - 1}` : "";
    return names.length === 0 ? null : `${sign} ${names[0]}${more} ${role}`;
  };
  const followers = location.followers.length;
  return [
    led("active", "▲") ?? "no leader",
    led("standby", "△"),
    followers > 0 ? many(followers, "follower") : null,
    peers.length > 0 ? `◇ ${peers[0]}${peers.length > 1 ? ` +${peers.length - 1}` : ""} Peer` : null,
  ].filter((line) => line !== null);
}

/** From so many links on those that are up are the background. */
const MANY = 60;

/** The line of a link and what is on it. */
export function stroke(health, from, to) {
  const ends = { x1: from.x, y1: from.y, x2: to.x, y2: to.y };
  const parts = [draw("line", { class: "line", ...ends })];
  if (HEALTH[health].sign !== "") {
    // Not in the middle, where lines cross each other.
    const [x, y] = [from.x + (to.x - from.x) * 0.4, from.y + (to.y - from.y) * 0.4];
    const sign = draw("text", { x, y: y + 4.5 }, HEALTH[health].sign);
    parts.push(draw("g", { class: "mark" }, draw("circle", { cx: x, cy: y, r: 9 }), sign));
  }
  return { ends, parts };
}

export class Picture {
  /** In this element; `choose` is given the key of the link that is pointed at or has the focus. */
  constructor(element, choose) {
    this.element = element;
    this.choose = choose;
    this.links = new Map();
    this.at = null;
    element.addEventListener("keydown", (event) => this.pressed(event));
  }

  /** Draws everything: locations with their peers, and the links that are shown. */
  draw(mesh, links, matched) {
    const focused = this.links.has(this.focusedKey()) ? this.focusedKey() : null;
    const width = Math.max(280, Math.round(this.element.clientWidth));
    const peersOf = (name) => mesh.peers.filter((peer) => peer.home === name).map((peer) => peer.name);
    const texts = mesh.locations.map((location) => lines(location, peersOf(location.name)));
    const most = Math.max(2, ...texts.map((text) => text.length + 1));
    const plan = layout(mesh.locations.length, width, most);
    this.places = new Map(mesh.locations.map((location, index) => [location.name, plan.places[index]]));
    this.width = width;
    this.group = draw("g", {
      role: "toolbar", "aria-label": "Links between locations", "aria-describedby": "picture-hint",
    });
    this.links.clear();
    const count = (mesh.locations.length * (mesh.locations.length - 1)) / 2;
    const places = mesh.locations.map((location, index) =>
      this.place(location.name, texts[index], plan, plan.places[index], matched.has(location.name)));
    const svg = draw("svg", { viewBox: `0 0 ${width} ${Math.ceil(plan.height)}`, height: Math.ceil(plan.height),
      class: count > MANY ? "many" : undefined }, this.group, draw("g", { "aria-hidden": "true" }, ...places));
    this.element.replaceChildren(svg);
    this.update(links);
    if (focused !== null) this.links.get(focused)?.group.focus();
  }

  place(name, text, plan, at, matched) {
    const group = draw("g", { class: matched ? "place matched" : "place", "data-name": name });
    if (plan.box === undefined) {
      group.append(draw("circle", { cx: at.x, cy: at.y, r: 5 }));
      if (plan.font > 0) {
        const left = Math.cos(at.angle) < -1e-9;
        const turned = (at.angle * 180) / Math.PI + (left ? 180 : 0);
        group.append(draw("text", {
          transform: `translate(${at.x} ${at.y}) rotate(${turned})`, x: left ? -9 : 9, y: plan.font * 0.35,
          "font-size": plan.font, "text-anchor": left ? "end" : "start",
        }, short(name, Math.floor(plan.label / (plan.font * 0.62)))));
      }
      return group;
    }
    const { width, height } = plan.box;
    const letters = Math.floor((width - 8) / 6.9);
    group.append(draw("rect", { x: at.x - width / 2, y: at.y - height / 2, width, height, rx: 8 }));
    [name, ...text].forEach((line, index) => {
      const y = at.y - height / 2 + 19 + index * 16;
      const style = index === 0 ? { class: "name", "font-size": 14 } : { "font-size": 12.5 };
      group.append(draw("text", { x: at.x, y, "text-anchor": "middle", ...style }, short(line, letters)));
    });
    return group;
  }

  /** Shows these links, each as it is now; what is there already stays, and with it the focus. */
  update(links) {
    const keys = new Set(links.map(keyOf));
    for (const [key, { group }] of this.links) {
      if (keys.has(key)) continue;
      group.remove();
      this.links.delete(key);
    }
    for (const link of links) this.updateOne(keyOf(link), link);
    if (!this.links.has(this.at)) this.at = this.links.keys().next().value ?? null;
    this.rove();
  }

  updateOne(key, link) {
    const [from, to] = [this.places.get(link.a), this.places.get(link.b)];
    if (from === undefined || to === undefined) return;
    const known = this.links.get(key);
    if (known?.health === link.health) {
      // A label that changes under the focus would be read aloud each second.
      if (known.group !== document.activeElement) known.group.setAttribute("aria-label", sentence(link));
      return;
    }
    const group = known?.group ?? this.newLink(key);
    const { ends, parts } = stroke(link.health, from, to);
    group.replaceChildren(draw("line", { class: "hit", ...ends }), draw("line", { class: "halo", ...ends }), ...parts);
    group.setAttribute("class", `link ${link.health}${this.chosen === key ? " chosen" : ""}`);
    group.setAttribute("aria-label", sentence(link));
    // What is wrong is drawn above the rest; an element that is moved loses the focus.
    if (link.health !== "up" && group !== document.activeElement) this.group.append(group);
    this.links.set(key, { group, health: link.health });
  }

  newLink(key) {
    const group = draw("g", { role: "button", "data-key": key });
    group.addEventListener("focus", () => this.reach(key));
    group.addEventListener("pointerenter", () => this.choose(key));
    group.addEventListener("click", () => this.reach(key));
    this.group.append(group);
    return group;
  }

  reach(key) {
    this.at = key;
    this.rove();
    this.choose(key);
  }

  /** One link alone is a stop of the Tab key. */
  rove() {
    for (const [key, { group }] of this.links) group.setAttribute("tabindex", key === this.at ? "0" : "-1");
  }

  /** Marks the link whose figures are shown. */
  mark(key) {
    this.chosen = key;
    for (const [other, { group }] of this.links) group.classList.toggle("chosen", other === key);
  }

  focusedKey() {
    return this.element.contains(document.activeElement) ? document.activeElement.getAttribute("data-key") : null;
  }

  pressed(event) {
    const keys = Array.from(this.links.keys());
    const now = keys.indexOf(this.focusedKey());
    if (now < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    let next = null;
    if (ON.includes(event.key)) next = (now + 1) % keys.length;
    else if (BACK.includes(event.key)) next = (now + keys.length - 1) % keys.length;
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = keys.length - 1;
    else if (event.key === "Enter" || event.key === " ") next = now;
    if (next === null) return;
    event.preventDefault();
    this.links.get(keys[next]).group.focus();
    this.reach(keys[next]);
  }
}

/** The lines and what they mean. */
export function legend(element) {
  for (const [health, { word }] of Object.entries(HEALTH)) {
    const { parts } = stroke(health, { x: 0, y: 10 }, { x: 60, y: 10 });
    const sample = draw("svg", { viewBox: "0 0 60 20", "aria-hidden": "true", class: health }, ...parts);
    const item = document.createElement("li");
    const text = document.createElement("span");
    write(text, word);
    item.append(sample, text);
    element.append(item);
  }
}
