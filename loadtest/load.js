// One load on one address: closed loop with CONNECTIONS, or open loop with RATE requests a second.
import http from 'k6/http';
import exec from 'k6/execution';
import { SharedArray } from 'k6/data';
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

// Many keys, once for all connections: by Zipf's law, or each of them once.
const keys = new SharedArray('keys', () =>
  __ENV.KEYS_FILE ? JSON.parse(open(__ENV.KEYS_FILE)) : [],
);
const shares = new SharedArray('shares', () => {
  let sum = 0;
  return keys.map((_, rank) => (sum += (rank + 1) ** -1.1));
});

function drawn() {
  if (__ENV.DRAW === 'once') return keys[exec.scenario.iterationInTest % keys.length];
  const wanted = Math.random() * shares[shares.length - 1];
  let [low, high] = [0, shares.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (shares[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return keys[low];
}

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
  if (keys.length) params.headers.authorization = `Bearer ${drawn()}`;
  const answer = http.post(__ENV.URL, body, params);
  if (answer.status === 503 && answer.headers['Retry-After']) refused.add(1);
}

export function handleSummary(summary) {
  return { [__ENV.SUMMARY_FILE]: JSON.stringify(summary) };
}
