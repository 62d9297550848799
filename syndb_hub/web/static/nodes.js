// The nodes as cards. A card is made anew only when what it says has changed, so that focus and selection stay.

import { element, number, plural } from "./dom.js";

const shown = new Map();

function ago(moment) {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(moment)) / 1000));
  if (seconds < 60) return "within the last minute";
  if (seconds < 3600) return `${plural(Math.floor(seconds / 60), "minute")} ago`;
  if (seconds < 172_800) return `${plural(Math.floor(seconds / 3600), "hour")} ago`;
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

function card(cluster) {
  const state = cluster.is_active ? cluster.health : "inactive";
  const node = element("article", { class: `panel node${cluster.is_active ? "" : " inactive"}`, "data-cluster": cluster.name });
  node.append(
    element("header", {}, element("h3", {}, cluster.name), element("span", { class: `health ${cluster.health}` }, state)),
  );
  if (cluster.institution) node.append(element("p", {}, cluster.institution));
  if (cluster.health_cause) node.append(element("p", { class: "cause" }, cluster.health_cause));
  const facts = [plural(cluster.datasets.length, "data set"), `schema ${cluster.schema_version}`];
  if (cluster.health !== "healthy" && cluster.last_seen) facts.push(`last seen ${ago(cluster.last_seen)}`);
  node.append(element("p", {}, facts.join(" · ")));
  if (cluster.datasets.length) node.append(element("ul", { class: "held" }, ...cluster.datasets.map(held)));
  return node;
}

export function showNodes(clusters) {
  const healthy = clusters.filter((cluster) => cluster.is_active && cluster.health === "healthy").length;
  const datasets = clusters.reduce((sum, cluster) => sum + cluster.datasets.length, 0);
  const summary = clusters.length
    ? `${healthy} of ${plural(clusters.length, "node")} healthy, ${plural(datasets, "data set")}.`
    : "No node has joined yet. A node needs the PeerId that `syndb-hub id` prints, and the federation password.";
  const line = document.getElementById("nodes-summary");
  if (line.textContent !== summary) line.textContent = summary;
  const cards = clusters.map((cluster) => {
    const { latency_ms: _, last_seen: seen, ...stable } = cluster;
    const key = JSON.stringify([stable, cluster.health === "healthy" ? null : seen && ago(seen)]);
    if (shown.get(cluster.name)?.key !== key) shown.set(cluster.name, { key, card: card(cluster) });
    return shown.get(cluster.name).card;
  });
  const place = document.getElementById("nodes");
  const same = cards.length === place.children.length && cards.every((each, index) => place.children[index] === each);
  if (!same) place.replaceChildren(...cards);
}
