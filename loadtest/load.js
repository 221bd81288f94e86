// One load on one address: closed loop with CONNECTIONS, or open loop with RATE requests a second.
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { arrivals } from './arrivals.js';

// Turned away as overloaded, which is an answer and no failure.
const refused = new Counter('refused');

const body = open(__ENV.BODY_FILE);
const params = {
  headers: {
    'content-type': 'application/json',
    authorization: `Bearer ${__ENV.API_KEY}`,
    ...JSON.parse(__ENV.HEADERS),
  },
  timeout: '30s',
};

export const options = {
  discardResponseBodies: true,
  insecureSkipTLSVerify: true,
  summaryTrendStats: [
    'avg', 'med', 'max',
    ...[1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9].map((percent) => `p(${percent})`),
  ],
  scenarios: { load: { gracefulStop: '5s', ...arrivals } },
};

export default function () {
  const answer = http.post(__ENV.URL, body, params);
  if (answer.status === 503 && answer.headers['Retry-After']) refused.add(1);
}

export function handleSummary(summary) {
  return { [__ENV.SUMMARY_FILE]: JSON.stringify(summary) };
}
