// Small helpers. Text is always set as text: nothing a node says becomes markup.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** A number for people: integers with separators, others with four significant digits. */
export function number(value) {
  if (typeof value !== "number") return "–";
  if (Number.isInteger(value)) return whole.format(value);
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-3 ? value.toExponential(3) : new Intl.NumberFormat("en", { maximumSignificantDigits: 5 }).format(value);
}

export const plural = (count, noun, many = `${noun}s`) => `${number(count)} ${count === 1 ? noun : many}`;

export function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let index = 0;
  while (count >= 1000 && index < units.length - 1) {
    count /= 1000;
    index += 1;
  }
  return `${index ? count.toPrecision(3) : count} ${units[index]}`;
}
