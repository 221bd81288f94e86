// Runs beside the npm package llm_guardrail: its two models' scores of each text.
import { createInterface } from "node:readline";
import { checkInjection, checkJailbreak } from "llm_guardrail";

const texts = [];
for await (const line of createInterface({ input: process.stdin })) texts.push(JSON.parse(line));
await checkInjection("warm up");
await checkJailbreak("warm up");
const startedAt = performance.now();
const answers = [];
for (const text of texts) {
  const [injection, jailbreak] = [await checkInjection(text), await checkJailbreak(text)];
  answers.push([
    injection.detected || jailbreak.detected,
    Math.max(injection.confidence, jailbreak.confidence),
  ]);
}
const seconds = (performance.now() - startedAt) / 1000;
process.stdout.write(JSON.stringify({ answers, seconds }));
