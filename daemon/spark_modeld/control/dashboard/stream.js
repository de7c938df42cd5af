// Answers that go on. EventSource cannot send a token, so both kinds are read from fetch.

/** The lines of a response as they come; each may be empty. `beat` is called with every piece. */
export async function* lines(response, beat = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      beat();
      const pieces = (rest + value).split('\n');
      rest = pieces.pop();
      yield* pieces;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Server-sent events as {kind, data}. */
export async function* events(response, beat) {
  let kind = 'message';
  let data = [];
  for await (const line of lines(response, beat)) {
    if (line === '') {
      if (data.length) yield { kind, data: JSON.parse(data.join('\n')) };
      kind = 'message';
      data = [];
    } else if (line.startsWith('event: ')) {
      kind = line.slice(7);
    } else if (line.startsWith('data: ')) {
      data.push(line.slice(6));
    }
  }
}
