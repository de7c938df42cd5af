// Who holds the memory, from a reading: the same reckoning as `spark-modelctl memory`.

/** One point of the chart: bytes, and the holders by a name that stays. */
export function sample(memory) {
  const { total, available, reserve, floor } = memory;
  return { at: Date.parse(memory.taken_at), total, available, reserve, floor, holders: holders(memory) };
}

/** {key, label, kind, bytes}, the largest first. They never sum up to more than what is used. */
export function holders(memory) {
  const servers = new Set(memory.loaded.map((entry) => entry.unit));
  const found = [
    ...memory.models.map((m) => holder(`model ${m.model}`, m.model, 'model', (m.bytes ?? 0) + m.host_bytes)),
    ...memory.loaded.filter((e) => e.model === null)
      .map((e) => holder(`loaded ${e.name}`, `${e.name} on ${e.unit}`, 'other', e.bytes)),
    ...memory.processes.filter((p) => p.model === null && !servers.has(p.unit))
      .map((p) => holder(`process ${p.pid}`, who(p), 'other', p.bytes ?? 0)),
    ...memory.strangers.filter((p) => !servers.has(p.unit))
      .map((p) => holder(`stranger ${p.pid}`, who(p), 'other', p.bytes)),
  ].filter((each) => each.bytes > 0);
  found.sort((a, b) => b.bytes - a.bytes);
  // Lists of holders may be older than the kernel's number, and overlap.
  const sum = found.reduce((all, each) => all + each.bytes, 0);
  const scale = Math.min(1, (memory.total - memory.available) / Math.max(1, sum));
  return found.map((each) => ({ ...each, share: each.bytes * scale }));
}

function holder(key, label, kind, bytes) {
  return { key, label, kind, bytes };
}

function who(process) {
  const user = process.user ? ` of ${process.user}` : '';
  return `${process.command || 'a process'}, PID ${process.pid}${user}`;
}
