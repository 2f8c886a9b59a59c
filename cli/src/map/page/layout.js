// Where locations stand: in boxes on an ellipse as wide as the page, or, where there are too many for that, as points of a circle
// with their names outside.

// Between boxes a line and what is on it has to be seen.
const GAP = 44;
const TALLEST = 520;

const angle = (index, count) => (2 * Math.PI * index) / count - Math.PI / 2;

function overlap(places, width, height) {
  return places.some((a, index) =>
    places.slice(0, index).some((b) => Math.abs(a.x - b.x) < width + GAP && Math.abs(a.y - b.y) < height + GAP));
}

/** The boxes; nothing where they do not fit. */
function boxes(count, width, lines) {
  const box = { width: Math.round(Math.min(190, Math.max(104, width * 0.28))), height: 16 * lines + 14 };
  const across = Math.max(0, Math.min(430, (width - box.width) / 2 - 2));
  const on = (down) => Array.from({ length: count }, (_, index) => ({
    x: width / 2 + (count < 2 ? 0 : across * Math.cos(angle(index, count))),
    y: down + box.height / 2 + 2 + (count < 2 ? 0 : down * Math.sin(angle(index, count))),
  }));
  if (count < 2) return { box, places: on(0), height: box.height + 4 };
  for (let down = Math.max(box.height * 0.75, Math.min(across * 0.5, 190)); down <= TALLEST; down += 8) {
    const places = on(down);
    if (!overlap(places, box.width, box.height)) return { box, places, height: 2 * down + box.height + 4 };
  }
  return null;
}

function points(count, width) {
  const label = Math.min(130, width * 0.2);
  const radius = Math.max(40, Math.min(300, width / 2 - label - 8));
  const middle = { x: width / 2, y: radius + label + 8 };
  const places = Array.from({ length: count }, (_, index) => {
    const at = angle(index, count);
    return { x: middle.x + radius * Math.cos(at), y: middle.y + radius * Math.sin(at), angle: at };
  });
  const apart = (2 * Math.PI * radius) / count;
  return { places, height: 2 * middle.y, label, font: apart < 8.5 ? 0 : Math.min(13, apart - 0.5) };
}

/** Places for so many locations in a picture of this width, with boxes of so many lines. */
export function layout(count, width, lines) {
  return (count <= 16 && boxes(count, width, lines)) || points(count, width);
}
