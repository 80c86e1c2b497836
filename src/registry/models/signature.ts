import { createHash } from 'node:crypto'
import { sortSteps } from '../../codec/base/sort.ts'
import { STEP_ITEMS, type Steps } from '../../codec/base/steps.ts'
import { compareUtf8 } from '../../codec/base/utf8.ts'
import { inTurns } from '../../workers/turns.ts'

type Named = { readonly name: string; readonly shape: readonly number[] }

/** SHA-256 over names and shapes in name order, hex: equal for models that one delta could fit. */
export function signatureOf(tensors: Iterable<Named>): Promise<string> {
  return inTurns(signatureSteps(tensors))
}

function* signatureSteps(tensors: Iterable<Named>): Steps<string> {
  const hash = createHash('sha256')
  const sorted = yield* sortSteps(tensors, (a, b) => compareUtf8(a.name, b.name))
  for (let i = 0; i < sorted.length; i += STEP_ITEMS) {
    const lines = sorted
      .slice(i, i + STEP_ITEMS)
      .map(({ name, shape }) => `${JSON.stringify([name, shape])}\n`)
    hash.update(lines.join(''))
    yield
  }
  return hash.digest('hex')
}
