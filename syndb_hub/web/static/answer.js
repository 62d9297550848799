// An answer: who gave it, a plot, the rows, and its provenance.

import { bytes, element, number, plural } from "./dom.js";
import { MOST_BARS, bars } from "./plot.js";

const FORMATS = ["csv", "json", "parquet", "arrow", "tar.xz"];
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const NUMERIC = /^(u?int\d+|float|double|halffloat|decimal.*)$/;

const part = (id) => document.getElementById(id);
const isNumeric = (column) => NUMERIC.test(column.type);
const isId = (column) => /(^|_)id$/.test(column.name);
const isMeasure = (column) => isNumeric(column) && !isId(column);

function table(columns, rows) {
  const head = element("tr", {}, ...columns.map((column) => {
    const cell = element("th", { scope: "col" }, column.name);
    if (isNumeric(column)) cell.className = "number";
    return cell;
  }));
  const body = element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((value, index) => {
    const numeric = isNumeric(columns[index]);
    const measured = typeof value === "number" && isMeasure(columns[index]);
    const text = value === null ? "–" : measured ? number(value) : String(value); // large integers come as strings
    const cell = element("td", {}, text);
    cell.className = [numeric && "number", value === null && "missing", UUID.test(text) && "id"].filter(Boolean).join(" ");
    if (numeric && value !== null) cell.title = String(value);
    return cell;
  }))));
  return [element("thead", {}, head), body];
}

function showPlot({ columns, rows }) {
  const figure = part("plot");
  const value = columns.findIndex(isMeasure);
  const texts = columns.map((column, index) => index).filter((index) => !isNumeric(columns[index]) && !rows.some((row) => UUID.test(row[index])));
  const usable = rows.filter((row) => typeof row[value] === "number");
  figure.hidden = value < 0 || !texts.length || usable.length < 2;
  if (figure.hidden) return;
  // The first text column names the bars; further ones are needed where it alone does not tell them apart.
  const unique = (indexes) => new Set(usable.map((row) => JSON.stringify(indexes.map((index) => row[index])))).size === usable.length;
  const by = unique(texts.slice(0, 1)) ? texts.slice(0, 1) : texts;
  const drawn = usable.slice(0, MOST_BARS);
  const names = drawn.map((row) => by.map((index) => row[index] || "(none)").join(", "));
  const title = `${columns[value].name} by ${by.map((index) => columns[index].name).join(", ")}`;
  figure.replaceChildren(element("figcaption", {}, title), bars(names, drawn.map((row) => row[value]), { title, show: number, room: figure.clientWidth - 32 }));
  if (usable.length > drawn.length) figure.append(element("p", { class: "more" }, `The first ${drawn.length} of ${number(usable.length)} rows.`));
}

function showSources({ scope, nodes, complete, truncated, seconds, scanned_rows: scanned, scanned_bytes: size, versions }) {
  const answered = nodes.filter((node) => node.status === "answered");
  const missing = nodes.filter((node) => node.status !== "answered");
  const box = part("sources");
  box.className = complete && !truncated ? "sources" : "sources partial";
  box.replaceChildren(element("strong", {}, complete ? "Complete answer" : "Incomplete answer"));
  const who = answered.length ? `Answered by ${answered.map((node) => node.cluster).join(", ")}.` : missing.length ? "No node answered." : "No node had to be asked.";
  box.append(element("span", {}, who));
  const facts = [plural(versions.length, "data set"), `${plural(scanned, "row")} read (${bytes(size)})`, `${number(seconds)} s`];
  box.append(element("span", { class: "facts" }, facts.join(" · ")));
  if (scope === "local" && !versions.length) {
    box.append(element("span", {}, "This hub holds no such data itself; add SCOPE federation to ask the nodes too."));
  }
  if (truncated) box.append(element("span", {}, "A limit cut this answer short."));
  if (missing.length) {
    box.append(element("ul", {}, ...missing.map((node) => element("li", {}, element("strong", {}, node.cluster), ` is missing: ${node.cause || "no reason given"}`))));
  }
}

function section(title, columns, rows) {
  const scroll = element("div", { class: "scroll", role: "region", "aria-label": title, tabindex: "0" });
  scroll.append(element("table", {}, ...table(columns, rows)));
  return [element("h3", {}, title), scroll];
}

const text = (...names) => names.map((name) => ({ name, type: "string" }));
const count = (...names) => names.map((name) => ({ name, type: "int64" }));

function showProvenance(provenance) {
  const box = part("provenance");
  const open = box.open;
  box.replaceChildren(
    element("summary", {}, "Where this comes from"),
    ...section(
      "Nodes",
      [...text("node", "outcome", "reason"), ...count("rows", "rows read", "bytes read", "seconds")],
      provenance.nodes.map((node) => [node.cluster, node.status, node.cause || null, node.rows, node.scanned_rows, node.scanned_bytes, node.seconds]),
    ),
    ...section(
      "Data-set versions",
      [...text("data set"), ...count("version"), ...text("node", "content")],
      provenance.versions.map((each) => [each.dataset, each.version, each.cluster, `sha256 ${each.content_hash.slice(0, 16)}…`]),
    ),
    element("h3", {}, "Plan"),
    element("p", {}, `Scope ${provenance.scope}; the same question of the same versions has the same hash: `, element("code", {}, provenance.plan_hash)),
  );
  box.open = open;
}

/** Show a completed job. `result` is null where the rows are too many for a page; `save` downloads them. */
export function showAnswer(job, result, save) {
  showSources(job.provenance);
  part("plot").hidden = true;
  if (result) {
    part("rows").replaceChildren(...table(result.columns, result.rows));
  } else {
    part("rows").replaceChildren(element("caption", {}, "Too many rows to show here: download them."));
  }
  part("result-size").textContent = plural(job.rows, "row");
  const buttons = FORMATS.map((format) => {
    const button = element("button", { type: "button" }, format);
    button.setAttribute("aria-label", `Download as ${format}`);
    button.addEventListener("click", () => save(job, format));
    return button;
  });
  part("downloads").replaceChildren("Download", ...buttons);
  showProvenance(job.provenance);
  part("answer").hidden = false;
  if (result) showPlot(result);
  part("result-heading").focus({ preventScroll: true });
}
