import { createHash, type Hash } from 'node:crypto'
import { CodecError } from '../../codec/base/errors.ts'
import { applySteps } from '../../codec/frames/float-frame.ts'
import type { FrameKernels } from '../../codec/frames/frame-kernels.ts'
import type { FrameMachine } from '../../codec/kernels/machine.ts'
import { encodeWhole } from '../../codec/lossy/encode.ts'
import { loadDelta, runPass } from '../../codec/lossy/passes.ts'
import { BlockError, FileError } from '../errors.ts'
import { collectGarbage } from '../garbage.ts'
import type {
  CompareTask,
  Comparison,
  DecodeTask,
  DigestsTask,
  EncodeWholeTask,
  HashModelTask,
  HashTask,
  ModelDigests,
  Results,
  Task,
  TaskBuffer,
  TaskFailure,
  TunedFrame,
  WriteTask,
} from '../tasks.ts'
import { FileReader } from './file-reader.ts'
import { FrameMaker } from './frame-maker.ts'
import { ModelHash } from './model-hash.ts'

interface Done<K extends Task['kind']> {
  readonly value: Results[K]
  /** Buffers of `value` to transfer. */
  readonly transfer: ArrayBuffer[]
}

/** Carries out the tasks of one worker, with the codec's functions, one machine, the files that are read, and the hashes that are open. */
export class TaskRunner {
  readonly #machine: FrameMachine
  readonly #frames: FrameMaker
  readonly #files: FileReader
  readonly #hashes = new Map<number, Hash>()
  readonly #models = new Map<number, ModelHash>()
  /** Memory for the delta of a tensor that is encoded as a whole, kept for the next one: fresh memory is slow. */
  #delta = new Float32Array(0)

  /** `isCancelled` gives true once nobody waits for the task any more: it then fails. */
  constructor(tools: FrameKernels, isCancelled: () => boolean) {
    const { machine } = tools
    this.#machine = machine
    this.#files = new FileReader(machine)
    this.#frames = new FrameMaker(tools, this.#files, isCancelled)
  }

  /**
   * Carries out one task. @throws CodecError for bytes that cannot be decoded or encoded; BlockError, FileError for what cannot be read or written
   */
  perform(task: Task, buffers: readonly TaskBuffer[]): Done<Task['kind']> {
    try {
      return this.#perform(task, buffers)
    } finally {
      this.#files.close()
    }
  }

  #perform(task: Task, buffers: readonly TaskBuffer[]): Done<Task['kind']> {
    if (task.kind !== 'encode-whole' && this.#delta.length > 0) this.#dropDelta()
    switch (task.kind) {
      case 'decode':
        this.#decode(task, buffers)
        return { value: null, transfer: [] }
      case 'write':
        this.#write(task, buffers)
        return { value: null, transfer: [] }
      case 'encode': {
        this.#loadDelta(task, buffers)
        const value = runPass(this.#machine, task.pass)
        return { value, transfer: buffersOf(value) }
      }
      case 'encode-whole': {
        const value = this.#encodeWhole(task, buffers)
        return { value, transfer: [value.buffer] }
      }
      case 'encode-frames': {
        const value = this.#frames.encode(task, buffers)
        return { value, transfer: [value.bytes.buffer] }
      }
      case 'compare':
        return { value: this.#compare(task, buffers), transfer: [] }
      case 'digests':
        return { value: this.#digests(task, buffers), transfer: [] }
      case 'verify':
        return { value: this.#frames.verify(task, buffers), transfer: [] }
      case 'hash':
        return { value: this.#hash(task, buffers), transfer: [] }
      case 'hash-model': {
        const value = this.#hashModel(task, buffers)
        return { value, transfer: [value.tensors.buffer] }
      }
      case 'trim':
        this.#frames.trim()
        collectGarbage()
        return { value: null, transfer: [] }
    }
  }

  #decode({ pieces, into }: DecodeTask, buffers: readonly TaskBuffer[]): void {
    this.#files.release()
    this.#frames.join(pieces, into, buffers)
  }

  #write({ pieces, path, position }: WriteTask, buffers: readonly TaskBuffer[]): void {
    let at = position
    for (const bytes of this.#frames.produce(pieces, buffers)) {
      this.#files.write(path, at, bytes)
      at += bytes.length
    }
  }

  #encodeWhole(
    { frames, tensor }: EncodeWholeTask,
    buffers: readonly TaskBuffer[],
  ): Uint8Array<ArrayBuffer> {
    const { count } = tensor.entry
    if (this.#delta.length < count) this.#delta = new Float32Array(count)
    const delta = this.#delta
    for (const tuned of frames) {
      this.#loadDelta(tuned, buffers)
      delta.set(this.#machine.values(), tuned.frame.first)
    }
    return encodeWhole(tensor, (run, pass) => {
      const bytes = new Uint8Array(delta.buffer, run.first * 4, run.count * 4)
      this.#machine.load('F32', bytes, run.count)
      return runPass(this.#machine, pass)
    })
  }

  /** Frees the memory of the last whole tensor: the next model may be encoded months later. */
  #dropDelta(): void {
    this.#delta.buffer.transfer(0)
    this.#delta = new Float32Array(0)
  }

  #loadDelta(tuned: TunedFrame, buffers: readonly TaskBuffer[]): void {
    this.#files.release()
    const { frame, parts, bytes } = this.#frames.tunedFrame(tuned, buffers)
    loadDelta(this.#machine, frame, parts, tuned.tunedDtype, bytes)
  }

  #compare(task: CompareTask, buffers: readonly TaskBuffer[]): Comparison {
    const { parentSteps, tunedDtype, stored } = task
    this.#files.release()
    const { frame, parts, bytes } = this.#frames.tunedFrame(task, buffers)
    applySteps(this.#machine, frame, parts)
    const { squaredError, maxAbs } = this.#machine.errorAgainst(tunedDtype, bytes, stored)
    const parent = { ...frame, steps: frame.steps.slice(0, parentSteps) }
    loadDelta(this.#machine, parent, parts, tunedDtype, bytes)
    return { squaredError, maxAbs, squaredDelta: this.#machine.sumOfSquares() }
  }

  #digests({ tensors }: DigestsTask, buffers: readonly TaskBuffer[]): Uint8Array[] {
    return tensors.map(pieces => {
      const hash = createHash('sha256')
      for (const bytes of this.#frames.produce(pieces, buffers)) hash.update(bytes)
      return hash.digest()
    })
  }

  #hash({ session, pieces, digest }: HashTask, buffers: readonly TaskBuffer[]): string {
    // A copy, so that the hash is unchanged if a piece cannot be read: the same pieces may come again.
    const hash = this.#hashes.get(session)?.copy() ?? createHash('sha256')
    for (const bytes of this.#frames.produce(pieces, buffers)) hash.update(bytes)
    this.#hashes.set(session, hash)
    if (!digest) return ''
    this.#hashes.delete(session)
    return hash.digest('hex')
  }

  #hashModel(task: HashModelTask, buffers: readonly TaskBuffer[]): ModelDigests {
    const { session, pieces, dtypes, widens } = task
    // A copy, as in #hash.
    const model = this.#models.get(session)?.copy() ?? ModelHash.start(widens)
    const ended: Uint8Array[] = []
    let begun = 0
    let at = 0
    for (const bytes of this.#frames.produce(pieces, buffers)) {
      if (pieces[at++]!.kind !== 'bytes') model.update(bytes, this.#machine)
      else ended.push(model.begin(bytes, dtypes[begun++]!) ?? NONE)
    }
    this.#models.set(session, model)
    if (!task.digest) return { tensors: joined(ended), stored: null, float32: null }
    this.#models.delete(session)
    const { stored, float32, tensor } = model.digest()
    return { tensors: joined([...ended, tensor ?? NONE]), stored, float32 }
  }
}

/** An error as plain data: see {@link TaskFailure}. */
export function toFailure(error: unknown): TaskFailure {
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  const plain = { message, stack, codec: null, file: null, block: null }
  if (error instanceof CodecError) {
    const { kind, rule, offset } = error
    return { ...plain, codec: { kind, rule, offset } }
  }
  if (error instanceof BlockError) {
    const { blob, offset, why } = error
    return { ...plain, block: { blob, offset, why } }
  }
  if (error instanceof FileError) {
    const { path, code } = error
    return { ...plain, file: { path, code } }
  }
  return plain
}

const NONE = new Uint8Array(0)

/** The arrays, one after the other, in fresh memory. */
function joined(arrays: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(arrays.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const each of arrays) {
    all.set(each, at)
    at += each.length
  }
  return all
}

/** The buffers of the arrays in a pass's result. */
function buffersOf(result: object): ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>()
  for (const member of Object.values(result)) {
    if (ArrayBuffer.isView(member) && member.buffer instanceof ArrayBuffer) {
      buffers.add(member.buffer)
    }
  }
  return [...buffers]
}
