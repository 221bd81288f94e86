// One load on one address: closed loop with CONNECTIONS, or open loop with RATE requests a second.
import http from 'k6/http';
import { Counter } from 'k6/metrics';

// Turned away as overloaded, which is an answer and no failure.
const refused = new Counter('refused');

const body = open(__ENV.BODY_FILE);
const params = {
  headers: { 'content-type': 'application/json', authorization: `Bearer ${__ENV.API_KEY}` },
  timeout: '30s',
};

const open_loop = {
  executor: 'constant-arrival-rate',
  rate: Number(__ENV.RATE || 0),
  timeUnit: '1s',
  duration: `${__ENV.SECONDS}s`,
  // What finds no free connection is dropped and counted; it never waits unseen.
  preAllocatedVUs: Number(__ENV.CONNECTIONS),
  maxVUs: Number(__ENV.CONNECTIONS),
};
const closed_loop = {
  executor: 'constant-vus',
  vus: Number(__ENV.CONNECTIONS),
  duration: `${__ENV.SECONDS}s`,
};

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max'],
  scenarios: { load: { gracefulStop: '5s', ...(__ENV.RATE ? open_loop : closed_loop) } },
};

export default function () {
  const answer = http.post(__ENV.URL, body, params);
  if (answer.status === 503 && answer.headers['Retry-After']) refused.add(1);
}

export function handleSummary(summary) {
  return { [__ENV.SUMMARY_FILE]: JSON.stringify(summary) };
}
