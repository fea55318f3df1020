// Usage: node table.mjs ROUNDS OUT.json
// ROUNDS holds a folder per round with results in the form of Google Benchmark's JSON. Writes the
// medians over the rounds to OUT.json and prints them as a Markdown table. A ratio is taken within a
// round, since times of different rounds are not comparable on a shared machine.
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const baseline = 'softmax/fp32';

const [rounds, out] = process.argv.slice(2);
if (!rounds || !out) {
  console.error('usage: node table.mjs ROUNDS OUT.json');
  process.exit(2);
}
if (!existsSync(rounds)) {
  console.error(`lowatt: there are no results in ${rounds}`);
  process.exit(1);
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

// mechanism/precision/level/phase/N/d
function parts(name) {
  const [mechanism, precision, , ...shape] = name.split('/');
  return { row: `${mechanism}/${precision}`, shape: shape.join('/') };
}

const context = {};
const samples = new Map(); // by name: {times, ratios}
for (const round of readdirSync(rounds).sort()) {
  const results = [];
  for (const file of readdirSync(path.join(rounds, round)).sort()) {
    const json = JSON.parse(readFileSync(path.join(rounds, round, file), 'utf8'));
    Object.assign(context, json.context);
    results.push(...json.benchmarks.filter((result) => result.ns_per_pair > 0));
  }
  const baselines = new Map();
  for (const { name, ns_per_pair: time } of results)
    if (parts(name).row === baseline) baselines.set(parts(name).shape, time);
  for (const { name, ns_per_pair: time } of results) {
    if (!samples.has(name)) samples.set(name, { times: [], ratios: [] });
    samples.get(name).times.push(time);
    samples.get(name).ratios.push(baselines.get(parts(name).shape) / time);
  }
}
const benchmarks = [...samples].map(([name, { times, ratios }]) =>
  ({ name, ns_per_pair: median(times), speed_against_softmax: median(ratios), rounds: times.length }));
writeFileSync(out, `${JSON.stringify({ context, benchmarks }, null, 1)}\n`);

// A baseline first, then as measured; shapes by phase, head_dim and number of keys.
const order = (shape) => {
  const [phase, keys, dim] = shape.split('/');
  return (phase === 'prefill' ? 0 : 1e12) + 1e9 * dim + Number(keys);
};
const shapes = [...new Set(benchmarks.map(({ name }) => parts(name).shape))]
  .sort((a, b) => order(a) - order(b));
const rows = [...new Set([baseline, ...benchmarks.map(({ name }) => parts(name).row)])];
const title = (shape) => shape.replace(/^(\w+)\/(\d+)\/(\d+)$/, '$1 $2, d=$3');
console.log(`| | ${shapes.map(title).join(' | ')} |`);
console.log(`|---|${'---|'.repeat(shapes.length)}`);
for (const row of rows) {
  const cells = shapes.map((shape) => {
    const found = benchmarks.find(({ name }) => parts(name).row === row && parts(name).shape === shape);
    return found ? `${found.ns_per_pair.toFixed(2)} (${found.speed_against_softmax.toFixed(2)}x)` : '-';
  });
  console.log(`| ${row} | ${cells.join(' | ')} |`);
}
