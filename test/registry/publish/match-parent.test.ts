import { createHash } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Dtype } from '../../../src/codec/base/dtypes.ts'
import type { RegistryError } from '../../../src/errors.ts'
import type { Registry } from '../../../src/registry/registry.ts'
import { type FilledTensor, modelFile } from '../../support/models/model-file.ts'
import { deltaFile, f32s, i64s, record } from '../../support/models/wdelta-files.ts'
import {
  bytesOf,
  openTestRegistry,
  part,
  publish,
  publishWdelta,
} from '../../support/servers/test-registry.ts'

/** Bytes that are sensible values as F32, BF16 and F16, the first of them letters. */
const BYTES = Buffer.from('AB?=CD?=EF?=GH?=IJ?=KL?=')
const F32 = { dtype: 'F32', shape: [2, 3] } as const
const I32 = { dtype: 'I32', shape: [2, 3] } as const
/** What the same 24 bytes can be, if not F32 [2, 3]. */
const MISFITS: readonly { dtype: Dtype; shape: readonly number[] }[] = [
  I32,
  { dtype: 'U32', shape: [2, 3] },
  { dtype: 'F32', shape: [3, 2] },
  { dtype: 'F32', shape: [6] },
  { dtype: 'F32', shape: [2, 3, 1] },
  { dtype: 'U8', shape: [24] },
  { dtype: 'BF16', shape: [2, 6] },
  { dtype: 'F64', shape: [3] },
  { dtype: 'C64', shape: [3] },
]

const tensor = (
  name: string,
  { dtype, shape }: { dtype: Dtype; shape: readonly number[] },
  data: Uint8Array = BYTES,
): FilledTensor => ({ name, dtype, shape, data })

/** The reference's hash of tensors, in this order. */
function hashOf(tensors: readonly FilledTensor[]): string {
  const hash = createHash('sha256')
  for (const { name, data } of tensors) hash.update(name).update(data)
  return hash.digest('hex')
}

interface Change {
  readonly name: string
  readonly shape: readonly number[]
  /** Added to the first element. */
  readonly by: number
  readonly tuned?: Dtype
}

/** A sparse delta of six elements in each tensor, three of them kept, its records in this order. */
function delta(parentHash: string, changes: readonly Change[]): Uint8Array {
  const tensors = Object.fromEntries(
    [...changes]
      .sort((a, b) => (a.name < b.name ? -1 : 1))
      .map(({ name, shape, tuned }) => [
        name,
        {
          dtype: 'float32',
          strategy: 'sparse',
          shape,
          sparsity: 0.5,
          indices: { _ref: 'indices' },
          values: { _ref: 'values' },
          ...(tuned && { tuned_dtype: tuned }),
        },
      ]),
  )
  const records = changes.flatMap(({ name, by }) => [
    record(name, 'indices', 'int64', 8, i64s(0, 1, 2)),
    record(name, 'values', 'float32', 4, f32s(by, 0, 0)),
  ])
  return deltaFile({ parent_hash: parentHash, strategy: 'sparse', tensors }, records)
}

const add = (registry: Registry, tensors: readonly FilledTensor[], name: string, more = {}) =>
  publish(registry, [part('model.safetensors', modelFile(tensors))], {
    name: `acme/${name}`,
    ...more,
  })

function flipByte(path: string): void {
  const bytes = readFileSync(path)
  bytes[bytes.length >> 1]! ^= 1
  writeFileSync(path, bytes)
}

/** What a publication is refused with. */
async function refusal(t: Test, publication: Promise<unknown>): Promise<RegistryError> {
  const error = await publication.then(
    () => null,
    (error: RegistryError) => error,
  )
  t.ok(error, 'refused')
  return error!
}

t.test('newer models with the hash that the delta does not fit are passed over', async t => {
  const { registry } = await openTestRegistry(t)
  const base = await add(registry, [tensor('w', F32)], 'base')
  const file = delta(base.hashes.stored, [{ name: 'w', shape: [2, 3], by: 100 }])
  const twins: FilledTensor[][] = [
    ...MISFITS.map(kind => [tensor('w', kind)]),
    // Names and bytes run together.
    [tensor('wA', { dtype: 'U8', shape: [23] }, BYTES.subarray(1))],
    [
      tensor('w', { dtype: 'U8', shape: [1] }, BYTES.subarray(0, 1)),
      tensor('B', { dtype: 'U8', shape: [22] }, BYTES.subarray(2)),
    ].reverse(),
    [
      tensor('w', { dtype: 'U8', shape: [3] }, BYTES.subarray(0, 3)),
      tensor('=', { dtype: 'U8', shape: [20] }, BYTES.subarray(4)),
    ],
  ]
  let equal = 0
  for (const [i, tensors] of twins.entries()) {
    const twin = await add(registry, tensors, `twin-${i}`)
    if (twin.hashes.stored === base.hashes.stored) equal++
    const made = await publishWdelta(registry, file)
    t.equal(made.parent, base.id, JSON.stringify(tensors.map(({ dtype, shape }) => [dtype, shape])))
    t.strictSame(made.dtypes, ['F32'])
    const bytes = await bytesOf(await registry.models.openTensor(made.id, 'w'))
    t.equal(bytes.readFloatLE(0), Math.fround(BYTES.readFloatLE(0) + 100))
  }
  t.ok(equal >= MISFITS.length + 1, `${equal} twins have the hash`)
})

t.test('a fitting model is found behind any number of others', async t => {
  const { registry } = await openTestRegistry(t)
  const base = await add(registry, [tensor('w', F32)], 'base')
  // More than are opened, each of another shape, and as many that are the same again.
  for (let i = 0; i < 40; i++) {
    const ones = Array.from({ length: i % 15 }, () => 1)
    const shape = [...ones, ...(i < 15 ? [3, 2] : [6])]
    if (i < 30) await add(registry, [tensor('w', { dtype: 'F32', shape })], 'twin')
    await add(registry, [tensor('w', I32)], 'twin')
  }
  const file = delta(base.hashes.stored, [{ name: 'w', shape: [2, 3], by: 1 }])
  t.equal((await publishWdelta(registry, file)).parent, base.id)
  const lossless = await add(registry, [tensor('w', F32, Buffer.alloc(24, 'AB?='))], 'tuned', {
    parent: base.id,
  })
  const stored = await bytesOf(await registry.models.openDelta(lossless.id))
  t.equal((await publishWdelta(registry, stored)).parent, base.id, 'by identity')
  for (const { id, parent } of (await registry.models.list({ limit: 100 })).models) {
    if (parent === base.id) await registry.models.remove(id)
  }
  await registry.models.remove(base.id)
  const refused = await refusal(t, publishWdelta(registry, stored))
  t.equal(refused.code, 'parent-unknown')
  t.match(refused.message, /its identity is [0-9a-f]{64}, not [0-9a-f]{64}/)
})

t.test('of equal models the newest is the parent, whatever made it', async t => {
  const { registry } = await openTestRegistry(t)
  const first = await add(registry, [tensor('w', F32)], 'first')
  const file = delta(first.hashes.stored, [{ name: 'w', shape: [2, 3], by: 1 }])
  const other = modelFile([tensor('w', F32)], new Map([['format', 'pt']]))
  const second = await publish(registry, [part('model.safetensors', other)], {
    name: 'acme/second',
  })
  t.equal((await publishWdelta(registry, file)).parent, second.id)
  const third = await add(registry, [tensor('w', F32)], 'third', { parent: first.id })
  t.equal(third.kind, 'delta')
  t.equal((await publishWdelta(registry, file)).parent, third.id)
})

t.test(
  'a candidate that cannot be read is passed over, and tells so where no other is left',
  async t => {
    const folder = t.testdir()
    const { registry, catalog, close } = await openTestRegistry(t, folder)
    const base = await add(registry, [tensor('w', F32)], 'base')
    const tuned = Buffer.alloc(24, 'AB?=')
    const made = await add(registry, [tensor('w', F32, tuned)], 'tuned', { parent: base.id })
    const lossless = await bytesOf(await registry.models.openDelta(made.id))
    const sparse = delta(base.hashes.stored, [{ name: 'w', shape: [2, 3], by: 1 }])
    await registry.models.remove(made.id)
    const twins = [await add(registry, [tensor('w', F32)], 'equal')]
    twins.push(await add(registry, [tensor('w', I32)], 'other'))
    const spoil = async ({ id }: { id: string }, how: (path: string) => void) =>
      how(join(folder, 'store', (await catalog.model(id))!.manifest))
    await spoil(twins[0]!, flipByte)
    await spoil(twins[1]!, rmSync)
    await close()

    const again = await openTestRegistry(t, folder)
    for (const file of [sparse, lossless]) {
      const { id, parent } = await publishWdelta(again.registry, file)
      t.equal(parent, base.id)
      await again.registry.models.remove(id)
    }
    await again.registry.models.remove(base.id)
    for (const file of [sparse, lossless]) {
      t.equal((await refusal(t, publishWdelta(again.registry, file))).code, 'damaged')
    }
    const unknown = delta(hashOf([tensor('w', F32, tuned)]), [{ name: 'w', shape: [2, 3], by: 1 }])
    t.equal((await refusal(t, publishWdelta(again.registry, unknown))).code, 'parent-unknown')
  },
)

t.test('of models that fit and differ in dtypes none is taken', async t => {
  const half = BYTES.subarray(0, 12)
  const kinds = ['BF16', 'F16'] as const
  for (const tuned of [undefined, 'BF16'] as const) {
    const { registry } = await openTestRegistry(t, t.testdir({ [String(tuned)]: {} }))
    const twins = []
    for (const dtype of kinds) {
      twins.push(await add(registry, [tensor('w', { dtype, shape: [2, 3] }, half)], dtype))
    }
    const change = { name: 'w', shape: [2, 3], by: 1, ...(tuned && { tuned }) }
    const file = delta(twins[0]!.hashes.stored, [change])
    const refused = await refusal(t, publishWdelta(registry, file))
    t.match(refused, {
      code: 'parent-ambiguous',
      details: {
        expected: twins[0]!.hashes.stored,
        candidates: [
          { id: twins[1]!.id, name: 'acme/F16', dtypes: ['F16'] },
          { id: twins[0]!.id, name: 'acme/BF16', dtypes: ['BF16'] },
        ],
      },
    })
    for (const { id } of twins) t.match(refused.message, id)
    t.equal((await registry.models.list({ limit: 10 })).models.length, 2, 'nothing was published')
    for (const { id, dtypes } of twins) {
      const made = await publishWdelta(registry, file, { parent: id })
      t.match(made, { parent: id, dtypes: tuned ? [tuned] : dtypes })
    }
    // An integer twin is none that fits, and no reason to refuse.
    await registry.models.remove('acme/delta')
  }
})

t.test('what a delta leaves alone may be an integer, if it is the same one', async t => {
  const { registry } = await openTestRegistry(t)
  const ids = tensor('ids', I32)
  const base = await add(registry, [ids, tensor('w', F32)], 'base')
  const leaves = (tuned?: Dtype) =>
    delta(base.hashes.stored, [
      { name: 'ids', shape: [2, 3], by: 0, ...(tuned && { tuned }) },
      { name: 'w', shape: [2, 3], by: 1 },
    ])
  const changes = delta(base.hashes.stored, [
    { name: 'ids', shape: [2, 3], by: 1 },
    { name: 'w', shape: [2, 3], by: 1 },
  ])
  const made = await publishWdelta(registry, leaves())
  t.match(made, { parent: base.id, dtypes: ['F32', 'I32'] })
  const refused = await refusal(t, publishWdelta(registry, changes))
  t.match(refused, { code: 'parent-unknown', details: { candidates: [{ id: base.id }] } })
  t.match(refused.message, /"ids", which is I32 and not floating point/)
  t.match(await publishWdelta(registry, changes, { parent: base.id }), { dtypes: ['F32'] })

  for (const dtype of ['U32', 'F32'] as const) {
    const twin = await add(
      registry,
      [tensor('ids', { dtype, shape: [2, 3] }), tensor('w', F32)],
      dtype,
    )
    t.match(await refusal(t, publishWdelta(registry, leaves())), { code: 'parent-ambiguous' })
    const named = await publishWdelta(registry, leaves('I32'))
    t.equal(named.parent, base.id, `the delta says what ${dtype} is not`)
    await registry.models.remove(twin.id)
  }
  const swapped = [tensor('ids', F32), tensor('w', I32)]
  await add(registry, swapped, 'swapped')
  t.equal((await publishWdelta(registry, leaves())).parent, base.id, 'the same dtypes elsewhere')
})

t.test('where nothing fits, the answer says what was looked at and why it is not it', async t => {
  const { registry } = await openTestRegistry(t)
  const names = []
  for (const [i, kind] of MISFITS.slice(0, 4).entries()) {
    names.push((await add(registry, [tensor('w', kind)], `twin-${i}`)).id)
  }
  const hash = hashOf([tensor('w', F32)])
  const file = delta(hash, [{ name: 'w', shape: [2, 3], by: 1 }])
  const refused = await refusal(t, publishWdelta(registry, file))
  t.match(refused, { code: 'parent-unknown', details: { expected: hash } })
  for (const [id, why] of [
    [names[0], 'I32 and not floating'],
    [names[1], 'U32 and not floating'],
    [names[2], 'the model has it as [3,2]'],
    [names[3], 'the model has it as [6]'],
  ] as const) {
    const { candidates } = refused.details as { candidates: { id: string; why: string }[] }
    const found = candidates.filter(candidate => candidate.id === id)
    t.equal(found.length, 1)
    t.match(found[0]!.why, why)
    t.match(refused.message, id!)
  }
  const early = delta(hash, [{ name: 'v', shape: [2, 3], by: 1 }])
  const unread = await refusal(t, publishWdelta(registry, early))
  t.match(unread, { code: 'parent-unknown' })
  t.match(unread.message, 'the model has no such tensor')
})

t.test('in the order of the records too, only what fits is hashed and taken', async t => {
  const { registry } = await openTestRegistry(t)
  const other = Buffer.from(BYTES).reverse()
  const both = (kind: { dtype: Dtype; shape: readonly number[] }) => [
    tensor('b', kind, other.subarray(0, kind.dtype === 'F32' || kind.dtype === 'I32' ? 24 : 12)),
    tensor('a', kind, BYTES.subarray(0, kind.dtype === 'F32' || kind.dtype === 'I32' ? 24 : 12)),
  ]
  const changes = ['b', 'a'].map(name => ({ name, shape: [2, 3], by: 1 }))
  const base = await add(registry, both(F32), 'base')
  const file = delta(hashOf(both(F32)), changes)
  t.not(base.hashes.stored, hashOf(both(F32)), 'no kept hash tells')
  for (let i = 0; i < 10; i++) await add(registry, both(I32), 'twin')
  t.equal((await publishWdelta(registry, file)).parent, base.id, 'behind more than are hashed')
  const again = await add(registry, both(F32), 'again')
  t.equal((await publishWdelta(registry, file)).parent, again.id, 'the newest of equal ones')
  const halves = delta(hashOf(both({ dtype: 'F16', shape: [2, 3] })), changes)
  const ids = []
  for (const dtype of ['F16', 'BF16', 'I16'] as const) {
    ids.push((await add(registry, both({ dtype, shape: [2, 3] }), dtype)).id)
  }
  const refused = await refusal(t, publishWdelta(registry, halves))
  t.match(refused, {
    code: 'parent-ambiguous',
    details: { candidates: [{ id: ids[1] }, { id: ids[0] }] },
  })
})
