import { Worker } from 'node:worker_threads'
import type { Dtype } from '../codec/base/dtypes.ts'
import { CodecError } from '../codec/base/errors.ts'
import { BlockError, FileError } from './errors.ts'
import type {
  HashModelTask,
  HashTask,
  ModelDigests,
  Piece,
  ReplyMessage,
  Results,
  Task,
  TaskBuffer,
  TaskFailure,
  TaskMessage,
} from './tasks.ts'

/** A SHA-256 over pieces in the order in which they are given, produced and hashed by one worker. */
export interface HashSession {
  /** Hashes pieces, and takes over the buffers that they name. Calls are carried out in order, awaited or not. */
  update(pieces: readonly Piece[], buffers: readonly TaskBuffer[]): Promise<void>
  /** Hex digest; ends the session. */
  digest(): Promise<string>
  /** Ends a session that will not be digested. */
  abandon(): void
}

/** The hashes of a model, taken together over its tensors in name order: see `HashModelTask`. */
export interface ModelHashSession {
  /**
   * As {@link HashSession.update}; `dtypes` are those of the tensors whose names are among the pieces. Gives the SHA-256 of each tensor that ended,
   * one after the other.
   */
  update(
    pieces: readonly Piece[],
    buffers: readonly TaskBuffer[],
    dtypes: readonly Dtype[],
  ): Promise<Uint8Array>
  /** The lineage hashes, and the SHA-256 of the last tensor; ends the session. */
  digest(): Promise<ModelDigests>
  /** Ends a session that will not be digested. */
  abandon(): void
}

/** Worker threads that run the codec. */
export interface Pool extends AsyncDisposable {
  readonly size: number
  /** Tasks that run or wait; for metrics and tests. */
  readonly busy: number
  /**
   * Runs a task on the next idle worker. Buffers are transferred: the caller must not use them again. Rejects with the CodecError that the task
   * threw, with `signal.reason` if that aborts first, or with an Error if the worker dies; a dead worker is replaced. It settles only when no thread
   * uses the memory of the task any more: if a running task is aborted, when its worker has finished the current frame.
   */
  run<const T extends Task>(
    task: T,
    buffers: readonly TaskBuffer[],
    signal?: AbortSignal,
  ): Promise<Results[T['kind']]>
  /** Opens a hash. If `signal` aborts, the session must be abandoned. */
  openHash(signal?: AbortSignal): HashSession
  /** As {@link openHash}. `widens`: take the float32 hash too; every dtype must then be one that `canWiden`. */
  openModelHash(widens: boolean, signal?: AbortSignal): ModelHashSession
  /** Resolves when every worker has freed the memory that it keeps only to be used again. */
  trim(): Promise<void>
  close(): Promise<void>
}

interface Pending {
  readonly task: Task
  readonly buffers: readonly TaskBuffer[]
  /** The worker that must run the task; null for any. */
  readonly pin: Slot | null
  readonly resolve: (value: never) => void
  readonly reject: (reason: unknown) => void
}

interface Slot {
  worker: Worker
  /** The worker reads it between frames: not 0 once its task was aborted. */
  cancelled: Int32Array<SharedArrayBuffer>
  running: Pending | null
  /** False until the worker has answered once. One that dies before that is not replaced, or the pool would replace it for ever. */
  proven: boolean
  /** Hash sessions that are open on it. */
  sessions: number
}

type SessionTask = HashTask | HashModelTask

/** A hash whose state is in one worker: its tasks run there, in order. */
interface Session {
  readonly id: number
  run<T extends SessionTask>(
    task: T,
    buffers: readonly TaskBuffer[],
    signal: AbortSignal | undefined,
  ): Promise<Results[T['kind']]>
}

/** Starts `workers` threads (at least 1). Rejects if one cannot start. */
export async function openPool({ workers }: { workers: number }): Promise<Pool> {
  const pool = new ThreadPool(Math.max(1, workers))
  await pool.started()
  return pool
}

class ThreadPool implements Pool {
  readonly #slots: Slot[] = []
  #waiting: Pending[] = []
  #closed = false
  #session = 0

  constructor(size: number) {
    for (let i = 0; i < size; i++) this.#slots.push(this.#open({ sessions: 0 } as Slot))
  }

  get size(): number {
    return this.#slots.length
  }

  get busy(): number {
    return this.#waiting.length + this.#slots.filter(slot => slot.running).length
  }

  /** Resolves when every worker has answered an empty task. That also compiles its kernels. */
  async started(): Promise<void> {
    try {
      await Promise.all(
        this.#slots.map(slot =>
          this.#submit({ kind: 'digests', tensors: [] }, [], undefined, slot),
        ),
      )
    } catch (error) {
      await this.close()
      throw error
    }
  }

  run<const T extends Task>(
    task: T,
    buffers: readonly TaskBuffer[],
    signal?: AbortSignal,
  ): Promise<Results[T['kind']]> {
    return this.#submit(task, buffers, signal, null)
  }

  openHash(signal?: AbortSignal): HashSession {
    const { id: session, run } = this.#openSession()
    const blank = { kind: 'hash', session, pieces: [] } as const
    return {
      update: async (pieces, buffers) => {
        await run({ ...blank, pieces, digest: false }, buffers, signal)
      },
      digest: () => run({ ...blank, digest: true }, [], signal),
      // The worker drops the state, whatever ended the session.
      abandon: () => void run({ ...blank, digest: true }, [], undefined).catch(() => {}),
    }
  }

  openModelHash(widens: boolean, signal?: AbortSignal): ModelHashSession {
    const { id: session, run } = this.#openSession()
    const blank = { kind: 'hash-model', session, widens, pieces: [], dtypes: [] } as const
    return {
      update: async (pieces, buffers, dtypes) => {
        const task = { ...blank, pieces, dtypes, digest: false }
        return (await run(task, buffers, signal)).tensors
      },
      digest: () => run({ ...blank, digest: true }, [], signal),
      abandon: () => void run({ ...blank, digest: true }, [], undefined).catch(() => {}),
    }
  }

  /** Opens a session on the worker that has the fewest, so that those of one publication run side by side. */
  #openSession(): Session {
    const id = this.#session++
    const pin = this.#slots.reduce((least, slot) => (slot.sessions < least.sessions ? slot : least))
    const { worker } = pin
    pin.sessions++
    let isOpen = true
    const run: Session['run'] = async (task, buffers, signal) => {
      if (task.digest && isOpen) {
        isOpen = false
        pin.sessions--
      }
      // The state died with its worker: a replacement would hash only the rest.
      if (pin.worker !== worker) throw new Error('the worker that held this hash has died')
      return this.#submit(task, buffers, signal, pin)
    }
    return { id, run }
  }

  async trim(): Promise<void> {
    await Promise.all(
      this.#slots.map(slot => this.#submit<'trim'>({ kind: 'trim' }, [], undefined, slot)),
    )
  }

  async close(): Promise<void> {
    this.#closed = true
    const waiting = this.#waiting
    this.#waiting = []
    for (const pending of waiting) pending.reject(new Error('the worker pool is closed'))
    await Promise.all(this.#slots.map(slot => slot.worker.terminate()))
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #submit<K extends Task['kind']>(
    task: Task,
    buffers: readonly TaskBuffer[],
    signal: AbortSignal | undefined,
    pin: Slot | null,
  ): Promise<Results[K]> {
    if (this.#closed) return Promise.reject(new Error('the worker pool is closed'))
    if (signal?.aborted) return Promise.reject(signal.reason)
    return new Promise<Results[K]>((resolve, reject) => {
      const onAbort = () => {
        const i = this.#waiting.indexOf(pending)
        if (i < 0) return this.#cancel(pending)
        this.#waiting.splice(i, 1)
        reject(signal?.reason)
      }
      const settled = () => signal?.removeEventListener('abort', onAbort)
      const pending: Pending = {
        task,
        buffers,
        pin,
        resolve: value => {
          settled()
          if (signal?.aborted) reject(signal.reason)
          else resolve(value)
        },
        reject: reason => {
          settled()
          reject(signal?.aborted ? signal.reason : reason)
        },
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#waiting.push(pending)
      this.#dispatch()
    })
  }

  /** Makes the worker of a running task stop after the current frame. Only then does the task end: until then its memory is written to. */
  #cancel(pending: Pending): void {
    const slot = this.#slots.find(({ running }) => running === pending)
    if (slot) Atomics.store(slot.cancelled, 0, 1)
  }

  #dispatch(): void {
    for (const slot of this.#slots) {
      if (slot.running) continue
      const i = this.#waiting.findIndex(({ pin }) => pin === null || pin === slot)
      if (i < 0) continue
      const pending = this.#waiting.splice(i, 1)[0]!
      slot.running = pending
      Atomics.store(slot.cancelled, 0, 0)
      try {
        const message: TaskMessage = { task: pending.task, buffers: pending.buffers }
        slot.worker.postMessage(message, transferable(pending.buffers))
      } catch (error) {
        // A task that cannot be sent fails; the pool goes on.
        slot.running = null
        pending.reject(error)
      }
    }
  }

  #open(slot: Slot): Slot {
    // The suffix follows this file's own, so that the built package starts `worker.js`.
    const suffix = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
    const cancelled = new Int32Array(new SharedArrayBuffer(4))
    const worker = new Worker(new URL(`./thread/worker.${suffix}`, import.meta.url), {
      workerData: cancelled,
    })
    worker.on('message', (reply: ReplyMessage) => {
      const { running } = slot
      slot.running = null
      slot.proven = true
      this.#dispatch()
      if (!running) return
      if ('failure' in reply) running.reject(toError(reply.failure))
      else running.resolve(reply.value as never)
    })
    let cause: unknown = null
    worker.on('error', error => {
      cause = error
    })
    // Not on `error`: a thread may write to memory until it has exited.
    worker.on('exit', code => {
      this.#died(slot, cause ?? new Error(`a worker exited with ${code}`))
    })
    return Object.assign(slot, { worker, cancelled, running: null, proven: false })
  }

  #died(slot: Slot, cause: unknown): void {
    const { running, proven } = slot
    const lost = this.#waiting.filter(({ pin }) => pin === slot)
    this.#waiting = this.#waiting.filter(({ pin }) => pin !== slot)
    if (!this.#closed && proven) this.#open(slot)
    else slot.running = null
    const error = new Error('a worker died', { cause })
    running?.reject(error)
    for (const pending of lost) pending.reject(error)
    this.#dispatch()
  }
}

/** The buffers that can be transferred: whole ones. A view of a part of a buffer is cloned instead. */
function transferable(buffers: readonly TaskBuffer[]): ArrayBuffer[] {
  const whole = new Set<ArrayBuffer>()
  for (const each of buffers) {
    if (!(each instanceof Uint8Array)) continue
    const { buffer, byteLength } = each
    if (buffer instanceof ArrayBuffer && byteLength > 0 && byteLength === buffer.byteLength) {
      whole.add(buffer)
    }
  }
  return [...whole]
}

function toError({ message, stack, codec, file, block }: TaskFailure): Error {
  if (block) return new BlockError(block.blob, block.offset, block.why)
  if (file) return new FileError(file.path, file.code, message)
  if (codec) {
    // The message already names the offset.
    const error = new CodecError(codec.kind, codec.rule, message)
    return Object.assign(error, { offset: codec.offset })
  }
  const error = new Error(message)
  if (stack !== undefined) error.stack = stack
  return error
}
