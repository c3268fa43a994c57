// Rates and quantiles from the server's counters: differences between two answers of /engine/state.

/** What happened between two states. Null where nothing can be said. */
export function between(before, after) {
  const seconds = after.time_s - before.time_s;
  const steps = after.stats.steps - before.stats.steps;
  if (seconds <= 0 || steps < 0) return null; // the engine's counters began again
  const rate = (name) => (after.stats[name] - before.stats[name]) / seconds;
  const ttft = counts(before, after, "time_to_first_token");
  const inter = counts(before, after, "inter_token");
  return {
    time: after.time_s,
    output: rate("output_tokens"),
    prompt: rate("prompt_tokens"),
    step: steps ? ((after.stats.host_s - before.stats.host_s + after.stats.device_s - before.stats.device_s) / steps) * 1000 : null,
    inter50: quantile(0.5, inter),
    inter95: quantile(0.95, inter),
    ttft50: quantile(0.5, ttft),
    ttft95: quantile(0.95, ttft),
  };
}

function counts(before, after, name) {
  const { bounds, counts: now } = after.latency[name];
  return { bounds, counts: now.map((count, index) => count - before.latency[name].counts[index]) };
}

/** A quantile of a histogram in milliseconds, linear within a bucket; null without values. */
export function quantile(share, { bounds, counts: values }) {
  const total = values.reduce((sum, count) => sum + count, 0);
  if (total <= 0) return null;
  let left = share * total;
  for (let index = 0; index < bounds.length; index++) {
    if (values[index] >= left && values[index] > 0) {
      const low = index ? bounds[index - 1] : 0;
      return (low + ((bounds[index] - low) * left) / values[index]) * 1000;
    }
    left -= values[index];
  }
  return bounds[bounds.length - 1] * 1000;
}
