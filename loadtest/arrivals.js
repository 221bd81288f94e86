// How requests arrive: at a RATE, whatever the answers do, or each connection when it has its last.

const open_loop = {
  executor: 'constant-arrival-rate',
  rate: Number(__ENV.RATE || 0),
  timeUnit: '1s',
  duration: `${__ENV.SECONDS}s`,
  // A request without a free connection is dropped and counted; it never waits unseen.
  preAllocatedVUs: Number(__ENV.CONNECTIONS),
  maxVUs: Number(__ENV.CONNECTIONS),
};
const closed_loop = {
  executor: 'constant-vus',
  vus: Number(__ENV.CONNECTIONS),
  duration: `${__ENV.SECONDS}s`,
};

export const arrivals = __ENV.RATE ? open_loop : closed_loop;
