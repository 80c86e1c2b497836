import { createHash, type Hash } from 'node:crypto'
import {
  applySteps,
  CodecError,
  decodeFrame,
  encodeWhole,
  type FrameMachine,
  loadDelta,
  runPass,
} from '../codec/index.ts'
import type {
  CompareTask,
  Comparison,
  DecodeTask,
  EncodeTask,
  EncodeWholeTask,
  HashTask,
  Results,
  Task,
  TaskFailure,
} from './tasks.ts'

interface Done<K extends Task['kind']> {
  readonly value: Results[K]
  /** Buffers of `value` to hand over. */
  readonly transfer: ArrayBuffer[]
}

/** What a worker does with a task: the codec's functions over one machine, and the hashes that it holds. */
export class Workbench {
  readonly #machine: FrameMachine
  readonly #hashes = new Map<number, Hash>()

  constructor(machine: FrameMachine) {
    this.#machine = machine
  }

  /** Performs one task. @throws CodecError for bytes that do not decode or encode. */
  perform(task: Task, buffers: readonly Uint8Array[]): Done<Task['kind']> {
    switch (task.kind) {
      case 'decode':
        return this.#decode(task, buffers)
      case 'encode':
        return this.#encode(task, buffers)
      case 'encode-whole':
        return this.#encodeWhole(task, buffers)
      case 'compare':
        return { value: this.#compare(task, buffers), transfer: [] }
      case 'hash':
        return { value: this.#hash(task, buffers), transfer: [] }
    }
  }

  #decode({ jobs }: DecodeTask, buffers: readonly Uint8Array[]): Done<'decode'> {
    const size = jobs.reduce((sum, { slice }) => sum + slice.end - slice.start, 0)
    const value = new Uint8Array(size)
    let at = 0
    for (const { frame, parts, slice } of jobs) {
      const bytes = decodeFrame(this.#machine, frame, buffers.slice(parts))
      value.set(bytes.subarray(slice.start, slice.end), at)
      at += slice.end - slice.start
    }
    return { value, transfer: [value.buffer] }
  }

  #encode(task: EncodeTask, buffers: readonly Uint8Array[]): Done<'encode'> {
    this.#loadDelta(task, buffers)
    const value = runPass(this.#machine, task.pass)
    return { value, transfer: buffersOf(value) }
  }

  #encodeWhole(task: EncodeWholeTask, buffers: readonly Uint8Array[]): Done<'encode-whole'> {
    this.#loadDelta(task, buffers)
    const value = encodeWhole(this.#machine, task.tensor)
    return { value, transfer: [value.buffer] }
  }

  #loadDelta(
    { frame, tunedDtype }: EncodeTask | EncodeWholeTask,
    buffers: readonly Uint8Array[],
  ): void {
    loadDelta(this.#machine, frame, buffers.slice(0, -1), tunedDtype, buffers.at(-1)!)
  }

  #compare(task: CompareTask, buffers: readonly Uint8Array[]): Comparison {
    const { frame, parentSteps, tunedDtype, stored } = task
    const parts = buffers.slice(0, -1)
    const tuned = buffers.at(-1)!
    applySteps(this.#machine, frame, parts)
    const { squaredError, maxAbs } = this.#machine.errorAgainst(tunedDtype, tuned, stored)
    applySteps(this.#machine, { ...frame, steps: frame.steps.slice(0, parentSteps) }, parts)
    this.#machine.subtractFrom(tunedDtype, tuned)
    return { squaredError, maxAbs, squaredDelta: this.#machine.sumOfSquares() }
  }

  #hash({ session, digest }: HashTask, buffers: readonly Uint8Array[]): string {
    const hash = this.#hashes.get(session) ?? createHash('sha256')
    for (const bytes of buffers) hash.update(bytes)
    if (!digest) {
      this.#hashes.set(session, hash)
      return ''
    }
    this.#hashes.delete(session)
    return hash.digest('hex')
  }
}

/** An error as plain data: see {@link TaskFailure}. */
export function toFailure(error: unknown): TaskFailure {
  if (error instanceof CodecError) {
    const { message, stack, kind, rule, offset } = error
    return { message, stack, codec: { kind, rule, offset } }
  }
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  return { message, stack, codec: null }
}

/** The buffers behind the arrays that are members of a pass's result. */
function buffersOf(result: object): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>()
  for (const member of Object.values(result)) {
    if (ArrayBuffer.isView(member) && member.buffer instanceof ArrayBuffer)
      buffers.add(member.buffer)
  }
  return [...buffers]
}
