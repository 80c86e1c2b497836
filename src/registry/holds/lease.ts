import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { RegistryError } from '../../errors.ts'
import { blobKey, nameOfKey } from '../../storage/blob-key.ts'
import type { BlobStore } from '../../storage/blob-store.ts'
import { upstreamOf } from '../../storage/near-store.ts'
import { putBlob } from '../../storage/put.ts'
import { sizeIfThere } from '../../storage/size.ts'
import type { Log } from '../log.ts'
import { mayRun, ownProcessMark, type ProcessMark } from './process-mark.ts'

export interface LeaseOptions {
  /** Milliseconds without a renewal after which a waiting process may take the lease. */
  readonly staleMs: number
  /** Waits for some milliseconds. Rejects when the signal aborts; must not keep the process alive. */
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>
  /** Mark of this process. Null where the system gives none: other owners are then judged by their renewals alone. */
  readonly process: ProcessMark | null
  readonly log: Log | undefined
}

const STALE_MS = 12_000
/** Renewals in the time of a lease: two may fail. */
const RENEWALS = 3
/** Milliseconds between two checks of an owner that may be alive. */
const LOOK_MS = 1000
/** Folder of all records: one listing finds them. */
const FAN = '00'
/** Hex digits in the key of a record: those of the instance, then those of the renewal's number. */
const INSTANCE_DIGITS = 30
const SERIAL_DIGITS = 8

/** The record of one instance in the store; its key counts the renewals. */
interface Owner {
  readonly instance: string
  /** Two while the lease is being renewed. */
  readonly keys: readonly string[]
  /** Time at which the newest was written, milliseconds of the store's clock. */
  readonly renewedAt: number
  readonly record: OwnerRecord
}

/** The JSON of a record. */
interface OwnerRecord {
  /** Lease time of that owner, whatever this process is configured with. */
  readonly staleMs: number
  readonly process: ProcessMark | null
}

/**
 * The right to write to a blob store. One process has it at a time: two catalogs that are copies of one another would destroy each other's
 * models. The owner keeps a record in the store and replaces it every few seconds. A process that takes the store over deletes the records of
 * the owner before it; that owner has lost the lease once its record is gone, whatever any clock says. Nothing depends on conditional writes.
 *
 * An owner checks its record before it deletes anything, and between the manifest of a model and its row. It sees a takeover that came before the
 * check; a takeover that comes later finds the manifest.
 */
export class Lease implements AsyncDisposable {
  readonly #blobs: BlobStore
  readonly #options: LeaseOptions
  readonly #instance = randomBytes(INSTANCE_DIGITS / 2).toString('hex')
  readonly #end = new AbortController()
  /** Records of this process that are out of date and may still be in the store. */
  readonly #spent = new Set<string>()
  #serial = 0
  #key = ''
  #isLost = false
  #renewing: Promise<void> = Promise.resolve()

  private constructor(blobs: BlobStore, options: LeaseOptions) {
    // A cache may be out of date.
    this.#blobs = upstreamOf(blobs)
    this.#options = options
  }

  /**
   * Takes the lease of a store, at once where nobody has it or its owner is known to have ended, else when the owner has not renewed it for
   * long enough; then renews it until it is disposed of. Rejects `store-in-use` when another process renews it.
   */
  static async take(blobs: BlobStore, options: Partial<LeaseOptions> = {}): Promise<Lease> {
    const lease = new Lease(blobs, {
      staleMs: STALE_MS,
      pause: (ms, signal) => sleep(ms, undefined, { signal, ref: false }),
      log: undefined,
      ...options,
      process: options.process === undefined ? await ownProcessMark() : options.process,
    })
    try {
      // Each process writes before it looks, so at least one of two sees the other.
      lease.#key = await lease.#write()
      await lease.#takeOver()
    } catch (error) {
      await lease.#withdraw()
      throw error
    }
    lease.#renewing = lease.#keepRenewing()
    return lease
  }

  /** @throws RegistryError `store-in-use` if the lease is known to be lost */
  check(): void {
    if (!this.#isLost) return
    throw new RegistryError(
      'store-in-use',
      'another registry has taken over the blob store: this one changes nothing in it until it is started again',
    )
  }

  /** Checks in the store that this process still has the lease. Rejects `store-in-use` if not, and as the store does. */
  async confirm(): Promise<void> {
    this.check()
    for (;;) {
      const key = this.#key
      if (await this.#has(key)) return
      // It may have been renewed meanwhile.
      if (key === this.#key) break
    }
    this.#lose()
    this.check()
  }

  /** Puts a new record in place of the one that is there. Rejects as {@link confirm}. */
  async renew(): Promise<void> {
    this.check()
    const next = await this.#write()
    // The new record proves nothing until the old one is seen: another process may have taken over.
    this.#spent.add(next)
    if (!(await this.#has(this.#key))) {
      this.#lose()
      await this.#withdraw()
      this.check()
    }
    this.#spent.add(this.#key).delete(next)
    this.#key = next
    await this.#blobs.delete([...this.#spent])
    this.#spent.clear()
  }

  /** Gives the lease up. A record that cannot be deleted goes stale. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort()
    await this.#renewing
    await this.#withdraw()
  }

  async #keepRenewing(): Promise<void> {
    const { staleMs, pause, log } = this.#options
    const { signal } = this.#end
    while (!this.#isLost && !signal.aborted) {
      try {
        await pause(staleMs / RENEWALS, signal)
        await this.renew()
      } catch (error) {
        if (signal.aborted) return
        if (!this.#isLost) log?.warn({ err: error }, 'the lease of the blob store was not renewed')
      }
    }
  }

  #lose(): void {
    if (this.#isLost) return
    this.#isLost = true
    const message = 'another registry has taken over the blob store: this one changes nothing in it'
    this.#options.log?.error({ instance: this.#instance }, message)
  }

  /** Waits until no other process has a record. */
  async #takeOver(): Promise<void> {
    const { pause, log } = this.#options
    const watch: Watch = { waitedMs: 0, firstSeen: new Map() }
    for (;;) {
      const { owners, now } = await this.#look()
      if (owners.length === 0) return
      const ended: Owner[] = []
      for (const owner of owners) if (await this.#hasEnded(owner, now, watch)) ended.push(owner)
      await this.#blobs.delete(ended.flatMap(({ keys }) => keys))
      // An owner may renew its lease in between: only a listing without any owner ends this.
      if (ended.length === owners.length) continue
      if (watch.waitedMs === 0) log?.info({ owners }, 'waiting for the lease of the blob store')
      await pause(LOOK_MS, this.#end.signal)
      watch.waitedMs += LOOK_MS
      await this.renew()
    }
  }

  /** Whether an owner has ended. Rejects `store-in-use` if it is seen to be alive. */
  async #hasEnded(owner: Owner, now: number, { waitedMs, firstSeen }: Watch): Promise<boolean> {
    const { process: own } = this.#options
    const { instance, keys, renewedAt, record } = owner
    // A running owner may use another store of which this one is a copy: only a renewal shows that it uses this one.
    if (own && record.process && !(await mayRun(record.process, own))) return true
    const first = firstSeen.get(instance) ?? keys[0]!
    firstSeen.set(instance, first)
    if (keys.includes(first)) return Math.max(waitedMs, now - renewedAt) > record.staleMs
    throw new RegistryError(
      'store-in-use',
      `another registry (instance ${instance}) uses this blob store, and has just renewed its lease: stop it, or give this one a store of its own`,
    )
  }

  /** The other processes that have records, and the time by the store's clock. */
  async #look(): Promise<{ owners: Owner[]; now: number }> {
    const listed = new Map<string, { keys: string[]; renewedAt: number }>()
    for await (const { key, modified } of this.#blobs.list('owners/')) {
      const instance = nameOfKey(key).slice(FAN.length, FAN.length + INSTANCE_DIGITS)
      const known = listed.get(instance) ?? { keys: [], renewedAt: 0 }
      known.keys.push(key)
      known.renewedAt = Math.max(known.renewedAt, modified.getTime())
      listed.set(instance, known)
    }
    const now = listed.get(this.#instance)?.renewedAt ?? 0
    listed.delete(this.#instance)
    const owners: Owner[] = []
    for (const [instance, { keys, renewedAt }] of listed) {
      const record = await this.#read(keys.sort().at(-1)!)
      // Listings may be stale.
      if (record) owners.push({ instance, keys, renewedAt, record })
    }
    return { owners, now }
  }

  /** Null for a record that is gone. */
  async #read(key: string): Promise<OwnerRecord | null> {
    try {
      const bytes = await this.#blobs.read(key, { start: 0, end: await this.#blobs.size(key) })
      return JSON.parse(Buffer.from(bytes).toString()) as OwnerRecord
    } catch (error) {
      if ((error as RegistryError).code === 'blob-missing') return null
      // A record that was copied in part has no content; its key counts.
      if (error instanceof SyntaxError) return { staleMs: STALE_MS, process: null }
      throw error
    }
  }

  async #has(key: string): Promise<boolean> {
    return (await sizeIfThere(this.#blobs, key)) !== null
  }

  /** Writes a new record and returns its key. */
  async #write(): Promise<string> {
    const { staleMs, process } = this.#options
    const record: OwnerRecord = { staleMs, process }
    const serial = (this.#serial++).toString(16).padStart(SERIAL_DIGITS, '0')
    const key = blobKey('owners', `${FAN}${this.#instance}${serial}`)
    await putBlob(this.#blobs, key, Buffer.from(JSON.stringify(record)))
    return key
  }

  async #withdraw(): Promise<void> {
    const keys = [...this.#spent, this.#key].filter(key => key !== '')
    await this.#blobs.delete(keys).catch(() => {})
  }
}

/** What was seen of other owners while this process waits. */
interface Watch {
  waitedMs: number
  /** By instance: the record found at the first check. */
  readonly firstSeen: Map<string, string>
}
