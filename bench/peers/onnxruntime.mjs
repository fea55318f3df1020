// Usage: node onnxruntime.mjs FOLDER [SHAPE]
// Measures the models that make_models.py wrote into FOLDER/models with the onnxruntime-node of
// FOLDER/node_modules, on one thread. Prints JSON of the form of Google Benchmark's. SHAPE, such as
// prefill/512/64, leaves out the others.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const minimumSeconds = 0.2;
const minimumRuns = 5;
const tolerance = 1e-4;

function fail(message) {
  console.error(`lowatt: ${message}`);
  process.exit(1);
}

const [folder, wanted] = process.argv.slice(2);
if (!folder) {
  console.error('usage: node onnxruntime.mjs FOLDER [SHAPE]');
  process.exit(2);
}

function load(name) {
  try {
    return createRequire(path.resolve(folder) + path.sep)(name);
  } catch (error) {
    return fail(`${name} cannot be loaded from ${folder}, where run.sh installs it (${error.code})`);
  }
}

function readIndex() {
  try {
    return JSON.parse(readFileSync(path.join(folder, 'models', 'index.json'), 'utf8'));
  } catch (error) {
    return fail(`no models in ${folder}/models, where run.sh has them made (${error.code})`);
  }
}

// Standard normal numbers, the same in every run.
function normals(count, seed) {
  let state = seed;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

function inputsOf({ heads, queries, keys, dim }) {
  return {
    q: normals(queries * heads * dim, 1),
    k: normals(keys * heads * dim, 2),
    v: normals(keys * heads * dim, 3),
  };
}

// One head of one query in double precision, as often as the model does it.
function expectedRow(model, { q, k, v }, query, head) {
  const { heads, keys, dim } = model;
  const at = (key, d) => (model.layout === 'rows'
    ? (key * heads + head) * dim + d : (head * keys + key) * dim + d);
  let row = Array.from({ length: dim }, (_, d) => q[(query * heads + head) * dim + d]);
  for (let step = 0; step < model.chain; ++step) {
    const weights = Array.from({ length: keys }, (_, key) => {
      let score = 0;
      for (let d = 0; d < dim; ++d) score += row[d] * k[at(key, d)];
      return score / Math.sqrt(dim);
    });
    const largest = weights.reduce((a, b) => Math.max(a, b));
    let sum = 0;
    const next = new Array(dim).fill(0);
    for (let key = 0; key < keys; ++key) {
      const weight = Math.exp(weights[key] - largest);
      sum += weight;
      for (let d = 0; d < dim; ++d) next[d] += weight * v[at(key, d)];
    }
    row = next.map((x) => x / sum);
  }
  return row;
}

// Compares some rows of the result with attention as written down.
function check(model, inputs, out) {
  const { heads, queries, dim } = model;
  let error = 0;
  let size = 0;
  for (const query of new Set([0, queries >> 1, queries - 1])) {
    for (let head = 0; head < heads; ++head) {
      expectedRow(model, inputs, query, head).forEach((x, d) => {
        error += (out[(query * heads + head) * dim + d] - x) ** 2;
        size += x ** 2;
      });
    }
  }
  const relative = Math.sqrt(error / size);
  if (!(relative <= tolerance))
    fail(`${model.file} is wrong: relative L2 distance to softmax is ${relative}, not ${tolerance}`);
}

// Of this process, in nanoseconds: what Google Benchmark divides by as well, and what other processes
// on the CPU disturb least.
function cpuTime() {
  const { user, system } = process.cpuUsage();
  return 1e3 * (user + system);
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

async function nanosecondsPerPair(ort, model) {
  const { heads, queries, keys, dim } = model;
  const session = await ort.InferenceSession.create(path.join(folder, 'models', model.file), {
    executionProviders: ['cpu'], executionMode: 'sequential', graphOptimizationLevel: 'all',
    intraOpNumThreads: 1, interOpNumThreads: 1,
  });
  const inputs = inputsOf(model);
  const keyShape = model.layout === 'rows' ? [1, keys, heads * dim] : [1, heads, keys, dim];
  const feeds = {
    q: new ort.Tensor('float32', inputs.q, [1, queries, heads * dim]),
    k: new ort.Tensor('float32', inputs.k, keyShape),
    v: new ort.Tensor('float32', inputs.v, keyShape),
  };
  check(model, inputs, (await session.run(feeds)).out.data);

  const times = [];
  for (let total = 0; times.length < minimumRuns || total < minimumSeconds * 1e9;) {
    const start = cpuTime();
    await session.run(feeds);
    const taken = cpuTime() - start;
    times.push(taken);
    total += taken;
  }
  await session.release();
  return median(times) / (model.chain * heads * queries * keys);
}

const ort = load('onnxruntime-node');
const { version } = load('onnxruntime-node/package.json');
const best = new Map();
for (const model of readIndex()) {
  if (wanted && model.name !== wanted) continue;
  const taken = await nanosecondsPerPair(ort, model);
  const name = `onnxruntime/fp32/-/${model.name}`;
  if (!(best.get(name)?.ns_per_pair <= taken))
    best.set(name, { name, ns_per_pair: taken, layout: model.layout });
}
if (best.size === 0) fail(`no model is called ${wanted}`);
const context = { 'ONNX Runtime': version };
console.log(JSON.stringify({ context, benchmarks: [...best.values()] }, null, 1));
