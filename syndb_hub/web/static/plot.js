// A horizontal bar plot of one number per name, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const WIDEST = 900;
const ROW = 28;
export const MOST_BARS = 40;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const shorten = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

/** Bars from zero, negative ones to the left of it. `show` writes a number for people. */
export function bars(names, values, { title, show, room }) {
  const width = Math.min(room, WIDEST);
  const letters = Math.min(width < 520 ? 16 : 34, Math.max(...names.map((name) => name.length)));
  const left = letters * 7.4 + 14;
  const right = Math.max(...values.map((value) => show(value).length)) * 7.8 + 14;
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  const span = high - low || 1;
  const x = (value) => left + ((value - low) / span) * (width - left - right);
  const size = { width, height: names.length * ROW + 8 };
  const svg = shape("svg", { ...size, viewBox: `0 0 ${size.width} ${size.height}`, role: "img", "aria-label": title });
  names.forEach((name, row) => {
    const y = row * ROW + 4;
    const value = values[row];
    const start = Math.min(x(0), x(value));
    const bar = shape("g", {});
    bar.append(
      shape("title", {}, `${name}: ${show(value)}`),
      shape("text", { x: left - 10, y: y + 18, "text-anchor": "end", "font-size": 13, class: "label" }, shorten(name, letters)),
      shape("rect", { x: start, y: y + 5, width: Math.max(1, Math.abs(x(value) - x(0))), height: ROW - 10, rx: 2 }),
      shape("text", { x: Math.max(x(value), x(0)) + 7, y: y + 18, "font-size": 13, class: "value" }, show(value)),
    );
    svg.append(bar);
  });
  svg.append(shape("line", { x1: x(0), x2: x(0), y1: 4, y2: names.length * ROW + 4, class: "axis" }));
  return svg;
}
