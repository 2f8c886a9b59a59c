// What is said of links, in words. Everything here is text; names of the cluster never become markup.

export const HEALTH = {
  up: { word: "up", sign: "" },
  impaired: { word: "impaired", sign: "!" },
  down: { word: "down", sign: "✕" },
  notEstablished: { word: "not established", sign: "–" },
  unknown: { word: "unknown", sign: "?" },
};

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** A number of bytes as people read it. */
export function bytes(count) {
  let unit = 0;
  while (count >= 1000 && unit + 1 < UNITS.length) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? count : count.toFixed(1)} ${UNITS[unit]}`;
}

const known = (value, text) => (value === null || value === undefined ? "?" : text(value));

/** The figures of one way, each with its name. */
export function figures(way) {
  const much = (rate, all) => (rate === undefined ? known(all, bytes) : `${bytes(rate)}/s`);
  return [
    ["by", `${way.leader} to ${known(way.farLeader, (name) => name)}`],
    ["link", known(way.up, (up) => (up ? "up" : "down"))],
    ["handshake", known(way.handshakeSeconds, (age) => `${age} s ago`)],
    ["round trip", known(way.rttMilliseconds, (rtt) => `${rtt.toFixed(1)} ms`)],
    ["loss", known(way.loss, (loss) => `${(loss * 100).toFixed(1)} %`)],
    ["received", much(way.receiving, way.received)],
    ["sent", much(way.sending, way.sent)],
    ["failovers", known(way.failovers, (count) => `${count}`)],
  ];
}

/** The worst of both ways, for a list. */
export function worst(link, field, text) {
  const values = link.ways.map((way) => way[field]).filter((value) => value !== null && value !== undefined);
  return values.length === 0 ? "?" : text(Math.max(...values));
}

export const keyOf = (link) => JSON.stringify([link.a, link.b]);

/** Everything of a link in one sentence, for who cannot see it. */
export function sentence(link) {
  const ways = link.ways.map((way) => {
    const said = figures(way).map(([name, value]) => `${name} ${value === "?" ? "unknown" : value}`);
    return `${way.from} to ${way.to}: ${said.join(", ")}`;
  });
  return [`${link.a} and ${link.b}: ${HEALTH[link.health].word}`, ...link.why, ...ways].join(". ");
}

/** How many of a thing. */
export const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;
