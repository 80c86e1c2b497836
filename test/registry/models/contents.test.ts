import t from 'tap'
import { weights } from '../../support/models/weights.ts'
import { openTestRegistry, part, publish } from '../../support/servers/test-registry.ts'

/** More than the buffers of a registry that is told nothing of its streams. */
const STREAMS = 150

t.test('as many downloads as there may be stand still, and each has its first chunk', async t => {
  const { registry } = await openTestRegistry(t, t.testdir(), { maxStreams: STREAMS })
  const { id } = await publish(registry, [part('model.safetensors', weights(1))])
  const leave = new AbortController()
  const streams = []
  for (let i = 0; i < STREAMS; i++) {
    const content = await registry.models.openReconstruct(id)
    const range = { start: 0, end: content.size }
    streams.push(content.open(range, leave.signal)[Symbol.asyncIterator]())
  }
  const first = await Promise.all(streams.map(stream => stream.next()))
  t.ok(first.every(({ done, value }) => !done && value.length > 0))
  await Promise.all(streams.map(stream => stream.return?.()))
})
