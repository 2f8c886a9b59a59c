// The page: takes what the program tells, and shows what is asked for.

import { byId, write } from "./dom.js";
import { LinkTable, Log, showFigures, showLocations, showPeers, showTrouble } from "./lists.js";
import { Picture, legend } from "./picture.js";
import { keyOf, many } from "./words.js";

const AGAIN = 3000;

const state = { mesh: { locations: [], peers: [] }, links: [], chosen: null };
const open = new Set();
const picture = new Picture(byId("picture"), choose);
const table = new LinkTable(byId("links"), choose);
const log = new Log(byId("log"));

/** The locations with a name that is searched for: their own, a node's or a Peer's. */
function searched() {
  const text = byId("search").value.trim().toLowerCase();
  const has = (name) => name !== null && name.toLowerCase().includes(text);
  const peers = state.mesh.peers.filter((peer) => has(peer.name));
  const behind = new Set(peers.flatMap((peer) => [peer.home, ...peer.attachments]));
  const locations = state.mesh.locations.filter((location) => has(location.name) || behind.has(location.name)
    || location.leaders.some((leader) => has(leader.name)) || location.followers.some(has));
  const names = new Set(locations.map((location) => location.name));
  return {
    any: text !== "",
    locations,
    names,
    peers: state.mesh.peers.filter((peer) => has(peer.name) || (peer.home !== null && names.has(peer.home))),
  };
}

/** The links that are asked for. */
function wanted(names) {
  const show = byId("show").value;
  const like = (link) => show === "all" || (show === "wrong" ? link.health !== "up" : link.health === show);
  return state.links.filter((link) => like(link) && (names.has(link.a) || names.has(link.b)));
}

function showLinks() {
  const { names } = searched();
  const links = wanted(names);
  picture.update(links);
  table.show(links, state.links.length);
  showFigures(byId("figures-body"), state.links.find((link) => keyOf(link) === state.chosen));
  count(names.size, links.length);
  const wrong = state.links.filter((link) => link.health === "down").length;
  document.title = wrong > 0 ? `${many(wrong, "link")} down – Spanwire map` : "Spanwire map";
}

function count(locations, links) {
  const all = state.mesh.locations.length;
  write(byId("found"), `${locations} of ${many(all, "location")}, ${links} of ${many(state.links.length, "link")}`);
}

function showAll() {
  const found = searched();
  picture.draw(state.mesh, wanted(found.names), found.any ? found.names : new Set());
  picture.mark(state.chosen);
  showLocations(byId("locations"), found.locations, open);
  showPeers(byId("peers"), found.peers);
  showLinks();
}

function choose(key) {
  state.chosen = key;
  picture.mark(key);
  table.mark(key);
  showFigures(byId("figures-body"), state.links.find((link) => keyOf(link) === key));
}

function listen() {
  const source = new EventSource("/events");
  const on = (name, act) => source.addEventListener(name, (event) => {
    act(JSON.parse(event.data));
    write(byId("when"), `as of ${new Date().toLocaleTimeString()}`);
  });
  on("mesh", (mesh) => {
    state.mesh = mesh;
    showAll();
  });
  on("links", (links) => {
    state.links = links;
    showLinks();
  });
  on("trouble", (trouble) => showTrouble(byId("trouble"), trouble));
  on("log", (entries) => log.show(entries));
  source.addEventListener("open", () => write(byId("state"), "Live"));
  source.addEventListener("error", () => {
    write(byId("state"), "Not live: kubectl spanwire map does not answer. What is shown is what it said last");
    // The browser tries again by itself, unless it was refused.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
  });
}

legend(byId("legend"));
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("search").addEventListener("input", showAll);
byId("show").addEventListener("change", showLinks);
let width = 0;
new ResizeObserver(([entry]) => {
  // Its height is the picture's own doing.
  if (Math.round(entry.contentRect.width) === width) return;
  width = Math.round(entry.contentRect.width);
  showAll();
}).observe(byId("picture"));
listen();
