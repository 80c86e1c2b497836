import { humanBytes } from './terminal.ts'

/** The progress of a command, shown on stderr if that is a terminal. */
export interface Progress extends Disposable {
  /** Adds to the bytes that are done. */
  add(bytes: number): void
}

/** Least milliseconds between two updates of the line. */
const UPDATE_MS = 100

/** Shows a line such as `load 12 MB of 300 MB`, until it is disposed of. `total`: bytes, null if not known. */
export function openProgress(label: string, total: number | null): Progress {
  const { stderr } = process
  if (!stderr.isTTY) return { add: () => {}, [Symbol.dispose]: () => {} }
  let done = 0
  let drawn = 0
  return {
    add: bytes => {
      done += bytes
      const now = Date.now()
      if (now - drawn < UPDATE_MS) return
      drawn = now
      const of = total === null ? '' : ` of ${humanBytes(total)}`
      stderr.write(`\r\x1b[K${label} ${humanBytes(done)}${of}`)
    },
    [Symbol.dispose]: () => {
      stderr.write('\r\x1b[K')
    },
  }
}
