import { STEP_ITEMS, type Steps } from './steps.ts'

/** The items in the order of `compare`. The sort is stable, as `Array.sort` is. */
export function* sortSteps<T>(
  items: Iterable<T>,
  compare: (a: T, b: T) => number,
): Steps<readonly T[]> {
  let from = [...items]
  if (yield* isSorted(from, compare)) return from
  for (let start = 0; start < from.length; start += STEP_ITEMS) {
    yield
    const run = from.slice(start, start + STEP_ITEMS).sort(compare)
    for (let i = 0; i < run.length; i++) from[start + i] = run[i]!
  }
  let into = from.slice()
  for (let width = STEP_ITEMS; width < from.length; width *= 2) {
    for (let start = 0; start < from.length; start += width * 2) {
      yield* merge(from, into, start, width, compare)
    }
    ;[from, into] = [into, from]
  }
  return from
}

function* isSorted<T>(items: readonly T[], compare: (a: T, b: T) => number): Steps<boolean> {
  for (let i = 1; i < items.length; i++) {
    if (i % STEP_ITEMS === 0) yield
    if (compare(items[i - 1]!, items[i]!) > 0) return false
  }
  return true
}

/** Merges the sorted runs `[start, start + width)` and `[start + width, start + 2 * width)`. */
function* merge<T>(
  from: readonly T[],
  into: T[],
  start: number,
  width: number,
  compare: (a: T, b: T) => number,
): Steps<void> {
  const middle = Math.min(start + width, from.length)
  const end = Math.min(middle + width, from.length)
  let left = start
  let right = middle
  for (let at = start; at < end; at++) {
    if ((at - start) % STEP_ITEMS === 0) yield
    const takesLeft = left < middle && (right === end || compare(from[left]!, from[right]!) <= 0)
    into[at] = takesLeft ? from[left++]! : from[right++]!
  }
}
