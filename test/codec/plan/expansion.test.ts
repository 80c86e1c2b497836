import t from 'tap'
import type { Dtype } from '../../../src/codec/base/dtypes.ts'
import { CodecError } from '../../../src/codec/base/errors.ts'
import { EXPANSION, mostExpandedBytes } from '../../../src/codec/base/limits.ts'
import { checkExpansion } from '../../../src/codec/plan/expansion.ts'
import type { Recipes } from '../../../src/codec/plan/recipes.ts'
import { baseOf } from '../../support/models/made-up-lineages.ts'

/** Recipes of one tensor: nothing of it has to be there. */
const model = (dtype: Dtype, elements: number): Recipes =>
  baseOf({ name: 'w', dtype, shape: [elements] }).recipes

const GIB = 2 ** 30

t.test(
  'a delta gives at most a multiple of its parent and its file, and a few MiB at any rate',
  async t => {
    const refused = (parent: Recipes, made: Recipes, fileBytes: number) => {
      try {
        checkExpansion(parent, made, fileBytes)
        return false
      } catch (error) {
        if (error instanceof CodecError && error.rule === 'model-size') return error.message
        throw error
      }
    }
    const tiny = model('U8', 4)
    t.match(
      refused(tiny, model('U8', 8 * GIB), 430),
      /430 bytes.*parent of 4.*at most 67108864.*got 8589934592/,
    )
    t.equal(refused(tiny, model('U8', EXPANSION.floorBytes), 430), false)
    t.match(refused(tiny, model('U8', EXPANSION.floorBytes + 1), 430), /model|tensors/)
    const dense = model('BF16', GIB)
    t.equal(refused(dense, model('BF16', 8 * GIB), 1000), false, 'a dense model made into experts')
    t.equal(refused(dense, model('F32', 16 * GIB), 1000), false, 'and widened')
    t.match(refused(dense, model('F64', 16 * GIB), 1000), /model|tensors/)
    t.equal(refused(tiny, model('U8', 3 * GIB), GIB / 10), false, 'what comes with the file counts')
    t.equal(mostExpandedBytes(0, 0), EXPANSION.floorBytes)
    t.equal(mostExpandedBytes(GIB, GIB), 2 * GIB * EXPANSION.factor)
  },
)
