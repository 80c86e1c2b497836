import { createHash } from 'node:crypto'
import { compareUtf8 } from '../codec/index.ts'

/** SHA-256 over names and shapes in name order, hex: equal for models that one delta could fit. */
export function signatureOf(
  tensors: Iterable<{ readonly name: string; readonly shape: readonly number[] }>,
): string {
  const hash = createHash('sha256')
  const sorted = [...tensors].sort((a, b) => compareUtf8(a.name, b.name))
  for (const { name, shape } of sorted) hash.update(`${JSON.stringify([name, shape])}\n`)
  return hash.digest('hex')
}
