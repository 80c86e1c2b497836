import t from 'tap'
import type { Segment } from '../../src/codec/plan/segments.ts'
import type { Pool } from '../../src/workers/pool.ts'
import type { Piece } from '../../src/workers/tasks.ts'
import { engineOver, sourceOf } from '../support/engine.ts'

t.test('segments of a few bytes, or of none, make tasks of bounded length', async t => {
  const kinds: Record<string, (i: number) => Segment> = {
    bytes: i => ({ kind: 'bytes', bytes: Uint8Array.of(i) }),
    'copies apart': i => ({ kind: 'copy', span: { blob: 'b', start: i * 8, end: i * 8 + 4 } }),
    'copies joined': i => ({ kind: 'copy', span: { blob: 'b', start: i * 4, end: i * 4 + 4 } }),
    'both in turn': i =>
      i % 2 === 0
        ? { kind: 'bytes', bytes: Uint8Array.of(i, i) }
        : { kind: 'copy', span: { blob: 'b', start: i * 8, end: i * 8 + 2 } },
  }
  for (const [kind, segment] of Object.entries(kinds)) {
    let drawn = 0
    let most = 0
    const tasks: (readonly Piece[])[] = []
    const session = {
      update: async (pieces: readonly Piece[]) => {
        most = Math.max(most, drawn)
        drawn = 0
        tasks.push(pieces)
      },
      digest: async () => 'digest',
      abandon: () => {},
    }
    const pool = { size: 1, openHash: () => session } as unknown as Pool
    const read = () => Promise.reject(new Error('a worker reads'))
    const engine = engineOver(pool, sourceOf(read, { locate: () => 'path' }))
    const segments = (function* () {
      for (let i = 0; i < 20_000; i++, drawn++) yield segment(i)
    })()
    t.equal(await engine.digest(segments), 'digest')
    t.ok(most <= 1024, `${kind}: ${most} segments between two tasks`)
    const buffers = tasks.map(
      pieces => new Set(pieces.map(piece => 'bytes' in piece && piece.bytes.buffer)).size,
    )
    t.ok(Math.max(...buffers) <= 2, `${kind}: bytes of a task lie in one buffer`)
  }
})
