import t from 'tap'
import { startUpkeep, watchMemory } from '../src/upkeep.ts'
import { pretendMemory } from './support/pretend-memory.ts'

/** A registry that only tells how often its memory was dropped. */
function registryWith({ spareBytes = 0, tasks = 0 }) {
  const trimmed = Promise.withResolvers<void>()
  const registry = {
    trims: 0,
    figures: () => ({ spareBytes, tasks, badBlocks: 0, cache: null }),
    care: {
      trim: async () => {
        registry.trims++
        trimmed.resolve()
      },
      sweep: () => Promise.reject(new Error('not now')),
      scrub: () => Promise.reject(new Error('not now')),
    },
  }
  return { registry, trimmed: trimmed.promise }
}

const LOG = { info: () => {}, warn: () => {}, error: () => {} }

t.test('a process near its limit drops memory by itself', async t => {
  pretendMemory(t, 950)
  const { registry, trimmed } = registryWith({})
  const options = { sweepEveryMs: 3_600_000, scrubBytesPerSecond: 0, maxRssBytes: 1000 }
  await using _upkeep = startUpkeep(registry, options, LOG)
  // The timers of upkeep keep no process alive.
  const alive = setInterval(() => {}, 60_000)
  t.teardown(() => clearInterval(alive))
  await trimmed
  t.equal(registry.trims, 1)
})

t.test('near its limit, not far from it, and not all the time', async t => {
  for (const [rss, maxRssBytes, trims] of [
    [950, 1000, 1],
    [2000, 1000, 1],
    [800, 1000, 0],
    [800, 0, 0],
  ] as const) {
    pretendMemory(t, rss)
    const { registry } = registryWith({ spareBytes: 1, tasks: 1 })
    const look = watchMemory(maxRssBytes, registry, LOG)
    for (let i = 0; i < 100; i++) await look()
    t.equal(registry.trims, trims, `${rss} of ${maxRssBytes}`)
  }
})

t.test('a registry that was busy and is at rest gives back what it needs no more', async t => {
  const busy = registryWith({ spareBytes: 0 }).registry
  const spare = registryWith({ spareBytes: 1 }).registry
  const looks = [busy, spare].map(registry => watchMemory(0, registry, LOG))
  const trims: number[] = []
  for (let i = 0; i < 60; i++) {
    for (const look of looks) await look()
    trims.push(spare.trims)
  }
  t.equal(trims.indexOf(1), 29, 'after half a minute')
  t.equal(trims.at(-1), 1, 'the time of this test is shorter than a pause')
  t.equal(busy.trims, 0)
})
