import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

let collect: (() => void) | undefined

/**
 * Collects the garbage of this thread now, in some tens of milliseconds. V8 by itself collects when its heap grows, and looks neither at memory that
 * threads share nor at the limit of the process: what an idle thread has dropped would stay for hours.
 */
export function collectGarbage(): void {
  if (!collect) {
    // Only contexts that begin after the flag is set have the function.
    setFlagsFromString('--expose-gc')
    collect = runInNewContext('gc') as () => void
  }
  collect()
}

/** Percent by which the heap of a thread grows before V8 collects it again. */
const HEAP_GROWTH_PERCENT = 10

/**
 * Bounds the garbage that V8 lets pile up in all threads of the process. On a machine with much memory it lets a heap of 300 MB grow to twice that
 * before it collects: four uploads of 250,000 tensors each took 1.1 GB, of which 600 MB were garbage. Costs up to half more processor time
 * where a heap is that large, and about a tenth of the rate at which a cold bucket is read.
 */
export function boundHeapGrowth(): void {
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWTH_PERCENT}`)
}
