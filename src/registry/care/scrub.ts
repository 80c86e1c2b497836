import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import type { Catalog } from '../../catalog/catalog.ts'
import { CATALOG_FILE } from '../../catalog/file-names.ts'
import type { ModelRecord } from '../../catalog/records.ts'
import { BLOCK_BYTES } from '../../codec/base/block-sums.ts'
import type { ByteRange } from '../../codec/base/ranges.ts'
import type { RegistryError } from '../../errors.ts'
import type { Engine } from '../../workers/engine.ts'
import { type BadBlock, BlockError, type BlockFault } from '../../workers/errors.ts'
import { mapOrdered } from '../../workers/map-ordered.ts'
import { runStarts, VERIFY_BYTES, verifyRun } from '../../workers/verify.ts'
import { checkedEngine } from '../models/checked-reads.ts'
import type { ManifestBlob, ManifestHead } from '../models/manifest.ts'
import { readManifestHead } from '../models/manifest-bytes.ts'
import type { OpenedModels } from '../models/opened-models.ts'
import { tensorsAt } from '../models/tensors-at.ts'
import { isRotten, isTrue, manifestKey, recordOf } from '../models/true-records.ts'
import type { ScrubFinding, ScrubReport } from '../registry.ts'
import { type Damages, fileOf, type Names } from './damage.ts'

/** Findings, and models that are sound again, that a report names; it counts all. */
const MAX_REPORTED = 1000
/** Tensors that a finding names. */
const MAX_NAMED_TENSORS = 100

export interface ScrubDeps {
  readonly catalog: Catalog
  readonly engine: Engine
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

/** Bad bytes `[start, end)` of a blob, whole blocks. */
interface BadRun extends ByteRange {
  readonly why: BlockFault
}

/**
 * Reads every blob of every model and checks it. What is bad is marked, and what was marked and is sound again is cleared. Bytes that a
 * sweep deletes meanwhile are no damage.
 */
export async function scrub(deps: ScrubDeps, options: ScrubOptions): Promise<ScrubReport> {
  const pass = new Pass(deps, options)
  for await (const { record, wasDamaged } of oldestFirst(deps.catalog)) {
    await pass.model(record, wasDamaged)
  }
  return pass.report()
}

/** A model, and whether it was marked when the pass began: to clear a blob clears all models that have it. */
interface Candidate {
  readonly record: ModelRecord
  readonly wasDamaged: boolean
}

/** All models, parents before what is built on them. A model that is published meanwhile may be left out. */
async function* oldestFirst(catalog: Catalog): AsyncGenerator<Candidate> {
  const found: { id: string; wasDamaged: boolean }[] = []
  let cursor: string | null | undefined
  while (cursor !== null) {
    const page = await catalog.list({ limit: PAGE, ...(cursor !== undefined && { cursor }) })
    for (const { id, damaged } of page.models) found.push({ id, wasDamaged: damaged !== null })
    cursor = page.next
    await turn()
  }
  for (const { id, wasDamaged } of found.reverse()) {
    const record = await catalog.model(id)
    if (record) yield { record, wasDamaged }
  }
}

/** One pass over everything. */
class Pass {
  readonly #deps: ScrubDeps
  readonly #options: ScrubOptions
  /** Bad ranges of each blob that was read, by key; none for a sound blob. */
  readonly #blobs = new Map<string, readonly BadRun[]>()
  readonly #findings: ScrubFinding[] = []
  readonly #cleared: string[] = []
  #damagedTotal = 0
  #clearedTotal = 0
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
      damagedTotal: this.#damagedTotal,
      cleared: this.#cleared,
      clearedTotal: this.#clearedTotal,
    }
  }

  async model(record: ModelRecord, wasDamaged: boolean): Promise<void> {
    const { id } = record
    const manifest = manifestKey(record)
    const head = await this.#manifest(manifest)
    const isRowBad = head !== null && !(await this.#isTrue(record, head))
    const blobs = head?.blobs ?? []
    for (const blob of blobs) await this.#blob(blob)
    const keys = [manifest, ...blobs.map(({ key }) => key)]
    const bad = keys.filter(key => this.#blobs.get(key)!.length > 0)
    if (bad.length === 0 && !wasDamaged && !isRowBad) return
    const now = await this.#deps.catalog.model(id)
    // The model was deleted while it was read: its blobs went with it.
    if (!now) return
    for (const key of bad) await this.#report(record, head?.model ?? record, key)
    if (isRowBad) this.#reportRow(head.model, manifest)
    if (bad.length === 0 && now.damaged === null) this.#clear(id)
  }

  /** Whether the row of a model and its files agree with its manifest. A row that does not is marked as damaged. */
  async #isTrue(row: ModelRecord, head: ManifestHead): Promise<boolean> {
    if (isRotten(row)) return false
    const { catalog, models } = this.#deps
    const { id, files: listed, filesTotal } = row
    const files = listed.length === filesTotal ? listed : await catalog.files(id).catch(() => null)
    const size = (await this.#size(row.manifest)) ?? 0
    const truth = recordOf(row, head, { key: row.manifest, size })
    if (files && isTrue({ ...row, files }, truth)) return true
    await models.distrust(id)
    return false
  }

  /** Bytes of a blob; null if the catalog has lost it. */
  async #size(key: string): Promise<number | null> {
    try {
      return (await this.#deps.catalog.blob(key)).size
    } catch (error) {
      if ((error as RegistryError).code !== 'blob-missing') throw error
      return null
    }
  }

  #reportRow({ id, name, revision }: ManifestHead['model'], manifest: string): void {
    if (this.#damagedTotal++ >= MAX_REPORTED) return
    const where = { model: id, name, revision, file: CATALOG_FILE, tensors: [] }
    this.#findings.push({ ...where, offset: 0, bytes: 0, why: 'checksum', blob: manifest })
  }

  #clear(id: string): void {
    if (this.#clearedTotal++ < MAX_REPORTED) this.#cleared.push(id)
  }

  /** The head of a manifest; null if it cannot be read. */
  async #manifest(key: string): Promise<ManifestHead | null> {
    const size = await this.#size(key)
    if (size === null) {
      this.#blobs.set(key, [{ start: 0, end: 0, why: 'missing' }])
      return null
    }
    this.#bytes += size
    const { engine } = this.#deps
    try {
      const bytes = await engine.source.read(
        { blob: key, start: 0, end: size },
        this.#options.signal,
      )
      const head = await readManifestHead(key, bytes)
      await this.#done(key, [])
      return head
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
      await this.#done(key, [{ start: 0, end: size, why: error.why }])
      return null
    }
  }

  async #blob({ key, size, sums }: ManifestBlob): Promise<void> {
    if (this.#blobs.has(key)) return
    const found: BadBlock[] = []
    const checked = checkedEngine(this.#deps.engine, new Map([[key, { size, sums }]]))
    const { bytesPerSecond, signal } = this.#options
    const width = bytesPerSecond === undefined ? checked.width : 1
    const verify = (start: number) => verifyRun(checked, { blob: key, size, start }, signal)
    const began = performance.now()
    let done = 0
    for await (const bad of mapOrdered(runStarts(size), width, verify)) {
      found.push(...bad)
      if (bad.some(({ why }) => why === 'missing')) break
      done += VERIFY_BYTES
      if (bytesPerSecond !== undefined) await pace(began, done / bytesPerSecond, signal)
    }
    this.#bytes += size
    await this.#done(key, badRuns(found, size))
  }

  async #done(key: string, bad: readonly BadRun[]): Promise<void> {
    this.#blobs.set(key, bad)
    const { catalog, damages } = this.#deps
    if (!(await catalog.hasBlob(key))) return
    if (bad.length > 0) await damages.mark(key, bad[0]!.start)
    else await damages.clear(key)
  }

  /** Reports the bad ranges of a blob, whose file name comes from `names`. */
  async #report(record: ModelRecord, names: Names, key: string): Promise<void> {
    const { id, name, revision } = record
    for (const { start, end, why } of this.#blobs.get(key)!) {
      if (this.#damagedTotal++ >= MAX_REPORTED) continue
      const tensors = await this.#tensors(record, key, { start, end })
      const where = { model: id, name, revision, file: fileOf(names, key), tensors }
      this.#findings.push({ ...where, offset: start, bytes: end - start, why, blob: key })
    }
  }

  /** The tensors that bad bytes belong to, as far as the header or index that describes them can be read. */
  async #tensors(record: ModelRecord, key: string, run: ByteRange) {
    try {
      const { manifest } = await this.#deps.models.open(record)
      return tensorsAt(manifest, key, run).slice(0, MAX_NAMED_TENSORS)
    } catch {
      // The header, the index or the manifest is bad: that is reported already.
      return []
    }
  }
}

/** Neighbouring bad blocks as one range. The missing end of a blob is bad. */
function badRuns(bad: readonly BadBlock[], size: number): BadRun[] {
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
