// The nodes as cards. A card is made anew only when what it says has changed, so that focus and selection stay.

import { element, number, plural } from "./dom.js";

const shown = new Map();

function lasting(moment) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(moment)) / 1000));
  if (seconds < 60) return "less than a minute";
  if (seconds < 3600) return plural(Math.floor(seconds / 60), "minute");
  if (seconds < 172_800) return plural(Math.floor(seconds / 3600), "hour");
  return plural(Math.floor(seconds / 86_400), "day");
}

function ago(moment) {
  if (Date.now() - Date.parse(moment) < 172_800_000) return `${lasting(moment)} ago`;
  return new Date(moment).toLocaleDateString("en-CA");
}

function held(dataset) {
  const rows = Object.entries(dataset.row_counts).map(([table, count]) => `${table.replaceAll("_", " ")} ${number(count)}`);
  const about = [dataset.species, dataset.sex, dataset.stage].filter(Boolean).join(", ");
  const facts = [`version ${dataset.version}`, ...rows, dataset.sharing && `shares ${dataset.sharing}`].filter(Boolean);
  const item = element("li", {}, element("b", {}, dataset.title || dataset.dataset));
  item.append(element("span", {}, [dataset.title && dataset.dataset, about].filter(Boolean).join(" · ")), element("br"));
  item.append(element("span", {}, facts.join(" · ")));
  return item;
}

const EXPLAINED = {
  pending: "Its name is kept until a node proves itself under it.",
  waiting: "The hub's operator has to approve it before it is asked anything.",
};
const STANDING = { pending: "not joined yet", waiting: "waits for approval", inactive: "deactivated" };
const NOTABLE_SKEW_MS = 5000;

function clock(cluster) {
  const skew = cluster.clock_skew_ms;
  if (skew === null || Math.abs(skew) < NOTABLE_SKEW_MS) return "";
  const minutes = Math.round(Math.abs(skew) / 60_000);
  const amount = Math.abs(skew) < 120_000 ? plural(Math.round(Math.abs(skew) / 1000), "second") : plural(minutes, "minute");
  return `Its clock is ${amount} ${skew > 0 ? "ahead" : "behind"}.`;
}

// What somebody should look at, each in a sentence of its own. Nodes that take no part are not measured.
function troubles(cluster) {
  const active = cluster.standing === "active";
  const found = [];
  if (active && cluster.health !== "healthy" && cluster.health_cause) found.push(cluster.health_cause);
  if (active && clock(cluster)) found.push(clock(cluster));
  if (active && cluster.flaps > 1) found.push(`It was lost ${number(cluster.flaps)} times lately.`);
  if (cluster.refused_addresses.length) {
    found.push(`The hub does not dial announced addresses: ${cluster.refused_addresses.join(", ")}`);
  }
  return found;
}

function schema(cluster) {
  const differs = ["behind", "ahead"].includes(cluster.schema_state);
  return `schema ${cluster.schema_version}${differs ? `, ${cluster.schema_state} of the hub` : ""}`;
}

function facts(cluster) {
  const found = [plural(cluster.datasets.length, "data set"), schema(cluster)];
  if (cluster.standing !== "active" || cluster.health === "healthy") return found;
  if (cluster.health_since) found.push(`${cluster.health} for ${lasting(cluster.health_since)}`);
  if (cluster.last_seen) found.push(`last seen ${ago(cluster.last_seen)}`);
  return found;
}

function card(cluster) {
  const active = cluster.standing === "active";
  const state = active ? cluster.health : STANDING[cluster.standing];
  const node = element("article", { class: `panel node${active ? "" : " inactive"}`, "data-cluster": cluster.name });
  const health = element("span", { class: `health ${active ? cluster.health : "unknown"}` }, state);
  node.append(element("header", {}, element("h3", {}, cluster.name), health));
  if (cluster.institution) node.append(element("p", {}, cluster.institution));
  if (EXPLAINED[cluster.standing]) node.append(element("p", {}, EXPLAINED[cluster.standing]));
  for (const trouble of troubles(cluster)) node.append(element("p", { class: "cause" }, trouble));
  if (cluster.standing !== "pending") node.append(element("p", {}, facts(cluster).join(" · ")));
  if (cluster.datasets.length) node.append(element("ul", { class: "held" }, ...cluster.datasets.map(held)));
  return node;
}

export function showNodes(clusters) {
  const healthy = clusters.filter((cluster) => cluster.standing === "active" && cluster.health === "healthy").length;
  const datasets = clusters.reduce((sum, cluster) => sum + cluster.datasets.length, 0);
  const summary = clusters.length
    ? `${healthy} of ${plural(clusters.length, "node")} healthy, ${plural(datasets, "data set")}.`
    : "No node has joined yet. `syndb-hub invite` prints the line that a node needs.";
  const line = document.getElementById("nodes-summary");
  if (line.textContent !== summary) line.textContent = summary;
  const cards = clusters.map((cluster) => {
    const { latency_ms: _, last_seen: _seen, clock_skew_ms: _skew, ...stable } = cluster;
    const key = JSON.stringify([stable, troubles(cluster), facts(cluster)]);
    if (shown.get(cluster.name)?.key !== key) shown.set(cluster.name, { key, card: card(cluster) });
    return shown.get(cluster.name).card;
  });
  const place = document.getElementById("nodes");
  const same = cards.length === place.children.length && cards.every((each, index) => place.children[index] === each);
  if (!same) place.replaceChildren(...cards);
}
