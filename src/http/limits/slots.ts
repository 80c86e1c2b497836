import type { ServerResponse } from 'node:http'
import { RegistryError } from '../../errors.ts'
import { type LeastRate, Patience } from './least-rate.ts'

/** A request that moves a body, as the queue of slots sees it. */
export interface Occupant {
  /** The sender: the id of a token, or an address. */
  readonly owner: string
  /** Bytes that the client has sent or taken so far. */
  moved(): number
  /** Whether the registry waits for the client now. Only this time counts against the client. */
  isAwaited(): boolean
  /** Ends the request, because another one needs its slot and it is slow, or its owner has more than an equal share. */
  end(why: 'slow' | 'share'): void
}

export interface SlotRules {
  /** What has the slots, as a plural, for messages. */
  readonly what: string
  /** How many slots there are. */
  readonly most: number
  /** A client that was slower than one of these for its whole window gives way. */
  readonly slow: readonly LeastRate[]
  /** How long a request waits for a slot, milliseconds. */
  readonly waitMs: number
}

/** Samples in the shortest window of the rates, as {@link Patience} expects. */
const SAMPLES_PER_WINDOW = 100
/** Most waiting requests for each slot. Of one owner, at most as many wait as there are slots. */
const MAX_WAITING_PER_SLOT = 4

interface Entry {
  readonly occupant: Occupant
  readonly admitted: PromiseWithResolvers<void>
  /** When it began to wait, milliseconds of `performance.now()`. */
  readonly since: number
  /** Empty until it has a slot, then one for each rate. */
  patience: readonly Patience[]
  isSlow: boolean
}

/**
 * A number of slots for requests, and a queue before them. When all slots are taken and a request waits, a slow client gives up its slot. After half
 * of its time to wait, a request also gets the slot of an owner that has more than an equal share. Time that the registry itself takes counts
 * against nobody.
 */
export class SlotQueue {
  readonly #rules: SlotRules
  readonly #holding = new Set<Entry>()
  readonly #waiting = new Set<Entry>()
  #timer: NodeJS.Timeout | undefined

  constructor(rules: SlotRules) {
    this.#rules = rules
  }

  /**
   * Waits for a slot, and keeps it until the answer closes or the occupant is ended.
   * @throws RegistryError `overloaded` if there is none in time, `client-closed`
   */
  async enter(raw: ServerResponse, occupant: Occupant): Promise<void> {
    // The event of an answer that has closed is gone.
    if (raw.destroyed) throw clientClosed()
    this.#checkQueue(occupant.owner)
    const admitted = Promise.withResolvers<void>()
    const since = performance.now()
    const entry: Entry = { occupant, admitted, since, patience: [], isSlow: false }
    this.#waiting.add(entry)
    raw.once('close', () => this.#leave(entry))
    const timer = setTimeout(() => this.#refuse(entry), this.#rules.waitMs)
    this.#admit()
    try {
      await admitted.promise
    } finally {
      clearTimeout(timer)
    }
    // It may have closed since it was admitted.
    if (raw.destroyed) throw clientClosed()
  }

  #checkQueue(owner: string): void {
    const { most } = this.#rules
    const own = [...this.#waiting].filter(({ occupant }) => occupant.owner === owner)
    const isFull = this.#waiting.size >= most * MAX_WAITING_PER_SLOT || own.length >= most
    if (isFull) throw this.#overloaded()
  }

  #refuse(entry: Entry): void {
    this.#waiting.delete(entry)
    entry.admitted.reject(this.#overloaded())
  }

  #leave(entry: Entry): void {
    this.#waiting.delete(entry)
    this.#holding.delete(entry)
    // Has no effect if it was admitted before.
    entry.admitted.reject(clientClosed())
    this.#admit()
  }

  /** Gives out the slots that are free or can be freed. */
  #admit(): void {
    for (let next = this.#next(); next; next = this.#next()) {
      if (this.#holding.size >= this.#rules.most && !this.#makeRoom(next)) break
      this.#waiting.delete(next)
      const moved = next.occupant.moved()
      next.patience = this.#rules.slow.map(rate => new Patience(rate, performance.now(), moved))
      this.#holding.add(next)
      next.admitted.resolve()
    }
    this.#watch()
  }

  /** The request that has waited longest, of the owners that have the fewest slots. */
  #next(): Entry | null {
    const counts = this.#counts()
    const held = ({ occupant }: Entry) => counts.get(occupant.owner) ?? 0
    let next: Entry | null = null
    for (const entry of this.#waiting) if (!next || held(entry) < held(next)) next = entry
    return next
  }

  /** Ends the request that gives way to `next`: of all candidates, the one that has moved the fewest bytes. False if there is none. */
  #makeRoom(next: Entry): boolean {
    const awaited = [...this.#holding].filter(({ occupant }) => occupant.isAwaited())
    const slow = awaited.filter(({ isSlow }) => isSlow)
    const candidates = slow.length > 0 ? slow : this.#aboveShare(next, awaited)
    let victim: Entry | null = null
    for (const entry of candidates) {
      if (!victim || entry.occupant.moved() < victim.occupant.moved()) victim = entry
    }
    if (!victim) return false
    this.#holding.delete(victim)
    victim.occupant.end(victim.isSlow ? 'slow' : 'share')
    return true
  }

  /** Requests of owners that have more than an equal share, if the owner of `next` has less and it has waited long enough. */
  #aboveShare({ occupant: { owner }, since }: Entry, entries: readonly Entry[]): Entry[] {
    const { most, waitMs } = this.#rules
    if (performance.now() - since < waitMs / 2) return []
    const counts = this.#counts()
    const owners = new Set(counts.keys())
    for (const { occupant } of this.#waiting) owners.add(occupant.owner)
    const share = Math.max(1, Math.floor(most / owners.size))
    if ((counts.get(owner) ?? 0) >= share) return []
    return entries.filter(({ occupant }) => counts.get(occupant.owner)! > share)
  }

  /** How many slots each owner has. */
  #counts(): Map<string, number> {
    const counts = new Map<string, number>()
    for (const { occupant } of this.#holding) {
      counts.set(occupant.owner, (counts.get(occupant.owner) ?? 0) + 1)
    }
    return counts
  }

  /** Takes samples while any request has a slot. */
  #watch(): void {
    if (this.#holding.size === 0) {
      clearInterval(this.#timer)
      this.#timer = undefined
      return
    }
    const windowMs = Math.min(...this.#rules.slow.map(rate => rate.windowMs))
    this.#timer ??= setInterval(() => this.#sample(), windowMs / SAMPLES_PER_WINDOW).unref()
  }

  #sample(): void {
    const now = performance.now()
    for (const entry of this.#holding) {
      const moved = entry.occupant.moved()
      const isAwaited = entry.occupant.isAwaited()
      entry.isSlow = false
      for (const patience of entry.patience) {
        if (isAwaited) patience.resume(now)
        else patience.pause(now)
        if (patience.isOver(now, moved)) entry.isSlow = true
      }
    }
    if (this.#waiting.size > 0) this.#admit()
  }

  #overloaded(): RegistryError {
    const { most, what } = this.#rules
    return new RegistryError('overloaded', `${most} ${what} are under way, which is the most`)
  }
}

function clientClosed(): RegistryError {
  return new RegistryError('client-closed', 'the client closed the connection')
}
