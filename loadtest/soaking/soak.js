// The soak's mix of requests: closed loop with CONNECTIONS, or open loop with RATE a second.
// Each kind lists its expected outcomes; any other is counted as bad and logged.
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { arrivals } from '../arrivals.js';

const keys = JSON.parse(__ENV.KEYS);
const chat = open(__ENV.BODY_FILE);
const with_text = (text, more) =>
  JSON.stringify({
    model: 'gpt-4o-mini',
    messages: [{ role: 'user', content: text }],
    ...more,
  });
const message_stream = JSON.stringify({
  model: 'claude-mock',
  max_tokens: 64,
  stream: true,
  messages: [{ role: 'user', content: 'Tell me a story.' }],
});

const CHAT = '/v1/chat/completions';
const MESSAGES = '/v1/messages';
const ABORTED = 0;
// `of` a thousand. `end` is in the last bytes of a whole stream. `timeout` breaks off.
const kinds = {
  whole: { of: 850, path: CHAT, key: 'plain', body: chat, wants: [200] },
  redacted: {
    of: 40,
    path: CHAT,
    key: 'plain',
    body: with_text('Write to ann@example.org, please.'),
    wants: [200],
  },
  blocked: {
    of: 30,
    path: CHAT,
    key: 'plain',
    body: with_text(`Keep this: ${__ENV.SECRET_TEXT}`),
    wants: [400],
  },
  unknown_key: { of: 20, path: CHAT, key: 'unknown', body: chat, wants: [401] },
  limited: { of: 20, path: CHAT, key: 'limited', body: chat, wants: [200, 429] },
  guarded_stream: {
    of: 15,
    path: CHAT,
    key: 'watched',
    body: with_text('Tell me a story.', { stream: true }),
    wants: [200],
    end: '[DONE]',
  },
  stream: {
    of: 10,
    path: MESSAGES,
    key: 'plain',
    body: message_stream,
    wants: [200],
    end: 'message_stop',
  },
  aborted_stream: {
    of: 10,
    path: MESSAGES,
    key: 'watched',
    body: message_stream,
    wants: [200, ABORTED],
    end: 'message_stop',
    timeout: '80ms',
  },
  aborted_at_once: {
    of: 5,
    path: CHAT,
    key: 'plain',
    body: chat,
    wants: [200, ABORTED],
    timeout: '2ms',
  },
};

const names = Object.keys(kinds);
const deck = names.flatMap((name) => Array(kinds[name].of).fill(name));
const counters = {};
for (const name of names) {
  for (const end of ['answered', 'refused', 'aborted', 'bad']) {
    counters[`${name}_${end}`] = new Counter(`${name}_${end}`);
  }
}

export const options = {
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
  scenarios: { load: { gracefulStop: '30s', ...arrivals } },
};

export default function () {
  const name = deck[Math.floor(Math.random() * deck.length)];
  const kind = kinds[name];
  const headers = { 'content-type': 'application/json' };
  headers[kind.path === MESSAGES ? 'x-api-key' : 'authorization'] =
    kind.path === MESSAGES ? keys[kind.key] : `Bearer ${keys[kind.key]}`;
  if (kind.end || kind.path === MESSAGES) headers['x-bench-streamed'] = '1';
  const answer = http.post(__ENV.URL + kind.path, kind.body, {
    headers,
    timeout: kind.timeout || '30s',
    responseType: kind.end ? 'text' : 'none',
    tags: { name },
  });
  counters[`${name}_${outcome(kind, answer)}`].add(1);
}

function outcome(kind, answer) {
  // A timeout after the headers leaves the status that had come.
  const status = answer.error_code === 0 || answer.error_code >= 1400 ? answer.status : ABORTED;
  const is_whole = !kind.end || (answer.body || '').includes(kind.end);
  if (!kind.wants.includes(status) || !(is_whole || status !== 200)) {
    console.error(`${kind.path} wants ${kind.wants}, got ${answer.status} ${answer.error}`);
    return 'bad';
  }
  if (status === ABORTED) return 'aborted';
  return status === 200 ? 'answered' : 'refused';
}

export function handleSummary(summary) {
  return { [__ENV.SUMMARY_FILE]: JSON.stringify(summary) };
}
