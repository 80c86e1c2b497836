import { setTimeout as sleep } from 'node:timers/promises'
import type { Catalog, ModelRecord } from '../catalog/catalog.ts'
import { BLOCK_BYTES, type BlockSums, FRAME_BYTES } from '../codec/index.ts'
import { BlockError } from '../workers/block-error.ts'
import { type Executor, mapOrdered, Sources } from '../workers/execute.ts'
import type { BadBlock, BlockFault } from '../workers/tasks.ts'
import { withSums } from './checked-reads.ts'
import { type Damages, fileOf } from './damage.ts'
import { type ManifestBlob, readManifestHead } from './manifest.ts'
import type { OpenedModels } from './opened-models.ts'
import type { ScrubFinding, ScrubReport } from './registry.ts'
import { tensorsAt } from './tensors-at.ts'

export interface ScrubDeps {
  readonly catalog: Catalog
  readonly executor: Executor
  readonly models: OpenedModels
  readonly damages: Damages
}

export interface ScrubOptions {
  readonly signal: AbortSignal
  /** Bytes read in a second at most; undefined for as fast as it goes. */
  readonly bytesPerSecond?: number | undefined
}

/** Models of one page. */
const PAGE = 100
/** Bytes that one task checks: no more than other work would wait for. */
const TASK_BYTES = FRAME_BYTES

/** Bad bytes `[start, end)` of a blob, whole blocks. */
interface BadRun {
  readonly start: number
  readonly end: number
  readonly why: BlockFault
}

/**
 * Reads every blob of every model and checks it. What is bad is marked, and what was marked and is sound again is cleared. Bytes that a
 * sweep deletes meanwhile are no damage.
 */
export async function scrub(deps: ScrubDeps, options: ScrubOptions): Promise<ScrubReport> {
  const pass = new Pass(deps, options)
  for await (const record of oldestFirst(deps.catalog)) await pass.model(record)
  return pass.report()
}

/** All models, parents before what is built on them. A model that is published meanwhile may be left out. */
async function* oldestFirst(catalog: Catalog): AsyncGenerator<ModelRecord> {
  const ids: string[] = []
  let cursor: string | null | undefined
  while (cursor !== null) {
    const page = await catalog.list({ limit: PAGE, ...(cursor !== undefined && { cursor }) })
    ids.push(...page.models.map(({ id }) => id))
    cursor = page.next
  }
  for (const id of ids.reverse()) {
    const record = await catalog.model(id)
    if (record) yield record
  }
}

/** One pass over everything. */
class Pass {
  readonly #deps: ScrubDeps
  readonly #options: ScrubOptions
  /** What is bad of each blob that was read, by key; nothing where it is sound. */
  readonly #blobs = new Map<string, readonly BadRun[]>()
  /** Models that cannot be read in full. */
  readonly #broken = new Set<string>()
  readonly #findings: ScrubFinding[] = []
  readonly #cleared: string[] = []
  #bytes = 0

  constructor(deps: ScrubDeps, options: ScrubOptions) {
    this.#deps = deps
    this.#options = options
  }

  report(): ScrubReport {
    return {
      blobs: this.#blobs.size,
      bytes: this.#bytes,
      damaged: this.#findings,
      cleared: this.#cleared,
    }
  }

  async model(record: ModelRecord): Promise<void> {
    const { id, manifest, kind, parent } = record
    const blobs = await this.#manifest(manifest)
    for (const blob of blobs) await this.#blob(blob)
    const keys = [manifest, ...blobs.map(({ key }) => key)]
    const bad = keys.filter(key => this.#blobs.get(key)!.length > 0)
    // Deleted while it was read: what is missing of it has gone with it.
    if (bad.length > 0 && !(await this.#deps.catalog.model(id))) return
    for (const key of bad) await this.#report(record, key)
    const onBroken = kind === 'delta' && parent !== null && this.#broken.has(parent)
    if (bad.length > 0 || onBroken) this.#broken.add(id)
    else if (record.damaged !== null) {
      await this.#deps.catalog.setDamaged(id, null)
      this.#cleared.push(id)
    }
  }

  /** The blobs that a manifest names; none where it cannot be read. */
  async #manifest(key: string): Promise<readonly ManifestBlob[]> {
    const { catalog, executor } = this.#deps
    const { size } = await catalog.blob(key)
    this.#bytes += size
    try {
      const bytes = await executor.read({ blob: key, start: 0, end: size }, this.#options.signal)
      const { blobs } = readManifestHead(key, bytes)
      await this.#done(key, [])
      return blobs
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
      await this.#done(key, [{ start: 0, end: size, why: error.why }])
      return []
    }
  }

  async #blob({ key, size, sums }: ManifestBlob): Promise<void> {
    if (this.#blobs.has(key)) return
    const found: BadBlock[] = []
    const checked = withSums(this.#deps.executor, new Map([[key, { size, sums }]]))
    const { bytesPerSecond, signal } = this.#options
    const width = bytesPerSecond === undefined ? checked.pool.size * 2 : 1
    const verify = (start: number) => verifyRun(checked, key, { size, sums }, start, signal)
    const began = performance.now()
    let done = 0
    for await (const bad of mapOrdered(starts(size), width, verify)) {
      found.push(...bad)
      if (bad.some(({ why }) => why === 'missing')) break
      done += TASK_BYTES
      if (bytesPerSecond !== undefined) await pace(began, done / bytesPerSecond, signal)
    }
    this.#bytes += size
    await this.#done(key, runsOf(found, size))
  }

  async #done(key: string, bad: readonly BadRun[]): Promise<void> {
    this.#blobs.set(key, bad)
    const { catalog, damages } = this.#deps
    if (!(await catalog.hasBlob(key))) return
    if (bad.length > 0) await damages.mark(key, bad[0]!.start)
    else await damages.clear(key)
  }

  async #report(record: ModelRecord, key: string): Promise<void> {
    const { id, name, revision } = record
    for (const { start, end, why } of this.#blobs.get(key)!) {
      const tensors = await this.#tensors(record, key, { start, end })
      const where = { model: id, name, revision, file: fileOf(record, key), tensors }
      this.#findings.push({ ...where, offset: start, bytes: end - start, why, blob: key })
    }
  }

  /** The tensors that bad bytes belong to, as far as what describes them can be read. */
  async #tensors(record: ModelRecord, key: string, run: { start: number; end: number }) {
    try {
      return tensorsAt((await this.#deps.models.open(record)).manifest, key, run)
    } catch {
      // The header, the index or the manifest is what is bad: that is said already.
      return []
    }
  }
}

async function verifyRun(
  executor: Executor,
  blob: string,
  { size }: BlockSums,
  start: number,
  signal: AbortSignal,
): Promise<readonly BadBlock[]> {
  using _slot = await executor.slots.take(signal)
  const sources = new Sources(executor, signal)
  const part = sources.part({ blob, start, end: Math.min(start + TASK_BYTES, size) })
  try {
    const buffers = await sources.buffers()
    return await executor.pool.run({ kind: 'verify', parts: [part] }, buffers, signal)
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    return [{ blob, offset: start, why: error.why }]
  }
}

function* starts(size: number): Generator<number> {
  for (let start = 0; start < size; start += TASK_BYTES) yield start
}

/** Neighbouring bad blocks as one run. What a blob lacks is bad to its end. */
function runsOf(bad: readonly BadBlock[], size: number): BadRun[] {
  const runs: BadRun[] = []
  for (const { offset, why } of bad) {
    const last = runs.at(-1)
    const end = why === 'checksum' ? Math.min(offset + BLOCK_BYTES, size) : size
    if (last && last.why === why && offset <= last.end) runs[runs.length - 1] = { ...last, end }
    else runs.push({ start: offset, end, why })
  }
  return runs
}

/** Waits until `seconds` after `began`. */
async function pace(began: number, seconds: number, signal: AbortSignal): Promise<void> {
  const ahead = seconds * 1000 - (performance.now() - began)
  if (ahead > 0) await sleep(ahead, undefined, { signal })
}
