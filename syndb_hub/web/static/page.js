// The page: nodes, a query, its answer and where that came from.

import { Problem, download, get, post, token } from "./api.js";
import { showAnswer } from "./answer.js";
import { element } from "./dom.js";
import { showNodes } from "./nodes.js";

const REFRESH_MS = 3000;
const WAIT_SECONDS = 5;
const MOST_ROWS = 5000;

const EXAMPLES = [
  [
    "Chemical synapses by data set",
    "SELECT dataset, COUNT(*) AS pairs, SUM(synapse_count) AS synapses\nFROM synapses\nWHERE synapse_type = 'chemical'\nGROUP BY dataset\nORDER BY synapses DESC\nSCOPE federation",
  ],
  [
    "Mean and spread of synapses per connected pair",
    "SELECT dataset, AVG(synapse_count) AS mean, STDDEV_SAMP(synapse_count) AS sd, COUNT(*) AS n\nFROM synapses\nWHERE synapse_type = 'chemical'\nGROUP BY dataset\nORDER BY dataset\nSCOPE federation",
  ],
  [
    "Chemical and electrical synapses by sex",
    "SELECT sex, synapse_type, COUNT(*) AS pairs\nFROM synapses\nGROUP BY sex, synapse_type\nORDER BY sex, synapse_type\nSCOPE federation",
  ],
  [
    "Neurons by class",
    "SELECT cell_class, COUNT(*) AS neurons\nFROM neurons\nGROUP BY cell_class\nORDER BY neurons DESC\nSCOPE federation",
  ],
  ["Ten neurons", "SELECT dataset, name, cell_class, cell_type\nFROM neurons\nORDER BY name\nLIMIT 10\nSCOPE federation"],
];

const part = (id) => document.getElementById(id);
let running = null;

// Token

function showToken() {
  const state = part("token-state");
  state.hidden = Boolean(token.get());
  state.textContent = state.hidden
    ? ""
    : "Enter an API token to see the nodes and to run queries. The hub's operator makes one with: syndb-hub token create --name NAME";
}

part("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(part("token").value.trim());
  showToken();
  refresh();
});

// Nodes

let refreshing = null;

async function refresh() {
  clearTimeout(refreshing);
  if (token.get()) {
    try {
      showNodes(await get("/v1/federation/clusters"));
    } catch (problem) {
      part("nodes-summary").textContent = [problem.message, problem.hint].filter(Boolean).join(". ");
      if (problem.status === 401) part("nodes").replaceChildren();
    }
  } else {
    part("nodes").replaceChildren();
    part("nodes-summary").textContent = "";
  }
  refreshing = setTimeout(refresh, document.hidden ? 5 * REFRESH_MS : REFRESH_MS);
}

document.addEventListener("visibilitychange", () => document.hidden || refresh());

// Query

function showProblem(problem) {
  const box = part("error");
  const { line, column, offending } = problem.details ?? {};
  const source = part("query").value.split("\n")[line - 1];
  box.replaceChildren(element("p", { class: "what" }, problem.message));
  if (source !== undefined && column !== undefined) {
    const marks = "^".repeat(Math.max(1, String(offending ?? "").length));
    box.append(element("pre", {}, `${source}\n${" ".repeat(Math.max(0, column - 1))}${marks}`));
  }
  if (problem.hint) box.append(element("p", {}, problem.hint));
  const quoted = [problem.code, problem.requestId && `request ${problem.requestId}`].filter(Boolean).join(" · ");
  if (quoted) box.append(element("p", { class: "where" }, quoted));
  box.hidden = false;
}

const failure = (job) =>
  new Problem({ error: job.error_message ?? `the query was ${job.status}`, code: job.error_code ?? "", hint: job.error_hint ?? "", details: job.error_details ?? {} });

async function finished(query) {
  let job = await post("/v1/syql/exec", { query, wait: WAIT_SECONDS });
  running.job = job.job_id;
  if (running.cancelled) await post("/v1/syql/cancel", { query_id: job.job_id });
  while (["pending", "running"].includes(job.status)) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    job = await get(`/v1/jobs/${job.job_id}`);
  }
  if (job.status !== "completed") throw failure(job);
  return job;
}

async function run() {
  const began = performance.now();
  running = { job: null, cancelled: false };
  part("error").hidden = part("answer").hidden = true;
  part("run").disabled = true;
  part("progress").hidden = part("cancel").hidden = false;
  const tell = () => {
    part("progress").textContent = `The nodes are computing … ${((performance.now() - began) / 1000).toFixed(0)} s`;
  };
  tell();
  const clock = setInterval(tell, 1000);
  try {
    const job = await finished(part("query").value);
    const result = job.rows > MOST_ROWS ? null : await get(`/v1/jobs/${job.job_id}/result?format=json`);
    showAnswer(job, result, save);
  } catch (problem) {
    showProblem(problem);
  } finally {
    clearInterval(clock);
    part("progress").hidden = part("cancel").hidden = true;
    part("run").disabled = false;
    running = null;
  }
}

async function save(job, format) {
  try {
    const link = element("a", { download: `${job.job_id}.${format}` });
    link.href = URL.createObjectURL(await download(`/v1/jobs/${job.job_id}/result?format=${format}`));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (problem) {
    showProblem(problem);
  }
}

part("query-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) run();
});

part("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) part("query-form").requestSubmit();
});

part("cancel").addEventListener("click", async () => {
  running.cancelled = true;
  try {
    if (running.job) await post("/v1/syql/cancel", { query_id: running.job });
  } catch (problem) {
    showProblem(problem);
  }
});

const prompt = element("option", { value: "", disabled: "", selected: "" }, "Choose a query …");
part("example").append(prompt, ...EXAMPLES.map(([title], index) => element("option", { value: index }, title)));
part("example").addEventListener("change", () => {
  part("query").value = EXAMPLES[part("example").value][1];
});

part("query").value = EXAMPLES[0][1];
part("token").value = token.get();
showToken();
refresh();
get("/v1/federation/ping").then((hub) => {
  part("version").textContent = `SynDB ${hub.version}`;
}, () => {});
