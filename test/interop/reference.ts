import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

export interface Answer {
  readonly error?: string
  readonly tensors: number
  /** Tensors that only one side has. */
  readonly missing: readonly string[]
  readonly different: readonly string[]
}

/** The Python that has the reference. Throws without one: an interop suite that compares with nothing would pass. */
export function interopPython(): string {
  const { INTEROP_PYTHON } = process.env
  if (!INTEROP_PYTHON) throw new Error('INTEROP_PYTHON names no Python: see test/interop/setup.sh')
  return INTEROP_PYTHON
}

/** The reference in a process of its own; see `reference.py` for what it can be asked. */
export class Reference implements AsyncDisposable {
  readonly #child = spawn(interopPython(), [join(import.meta.dirname, 'reference.py')], {
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  readonly #answers = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()

  async ask(request: { readonly do: 'load' | 'save'; readonly [field: string]: unknown }) {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`)
    const { value, done } = await this.#answers.next()
    if (done) throw new Error(`the reference ended at ${JSON.stringify(request)}`)
    return JSON.parse(value) as Answer
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin.end()
    await this.#answers.next()
  }
}
