import t from 'tap'
import { itemBytes } from '../../../src/codec/base/dtypes.ts'
import { cast } from '../../support/models/generated-values.ts'
import { modelFile } from '../../support/models/model-file.ts'
import { Random } from '../../support/random.ts'
import { bytesOf, openTestRegistry, part, publish } from '../../support/servers/test-registry.ts'

const MODEL = 'model.safetensors'
/** Some frames of the widest dtype, and no whole number of any. */
const COUNT = 2 ** 19 + 40_000
/** Models in a row: enough for a plan that takes three times as much for each two of them to take minutes. */
const DEPTH = 12

for (const dtypes of [
  ['F16', 'F64'],
  ['BF16', 'F32'],
  ['F32', 'F16', 'BF16', 'F64'],
] as const) {
  t.test(`${dtypes.join(', ')} in turn come back byte for byte`, async t => {
    const { registry } = await openTestRegistry(t)
    const random = new Random(dtypes.length)
    // Small whole numbers, which every dtype has.
    const whole = Float32Array.from({ length: COUNT }, () => random.below(100))
    const files: Uint8Array[] = []
    let parent: string | undefined
    for (let level = 0; level <= DEPTH; level++) {
      const dtype = dtypes[level % dtypes.length]!
      for (let i = 0; i < 20; i++) whole[random.below(COUNT)] = random.below(100)
      const data = cast(random, 'F32', new Uint8Array(whole.buffer), dtype)
      const file = modelFile([{ name: 'w', dtype, shape: [COUNT], data }])
      files.push(file)
      const model = await publish(registry, [part(MODEL, file, 'file', 65_536)], {
        ...(parent !== undefined && { parent }),
      })
      parent = model.id
      if (level === 0) continue
      t.ok(
        (await registry.models.openDelta(model.id)).size < 5000,
        `${dtype}: what changed is listed`,
      )
    }
    t.equal(
      Buffer.compare(await bytesOf(await registry.models.openFile(parent!, MODEL)), files.at(-1)!),
      0,
    )
    const float32 = await bytesOf(await registry.models.openReconstruct(parent!, 'F32'))
    const expected = Buffer.from(whole.buffer)
    t.equal(Buffer.compare(float32.subarray(-COUNT * itemBytes('F32')), expected), 0)
  })
}
