import type { Socket } from 'node:net'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { RegistryError } from '../../errors.ts'
import type { Limits } from './limits.ts'
import { SlotQueue } from './slots.ts'

/** How long requests wait for slots and keep them, in milliseconds. */
export interface SlotTimes {
  /** How long a client that stalls keeps its slot while others wait. */
  readonly stalledMs: number
  /** How long an upload waits for a slot: longer than it takes to see which of the others are slow. */
  readonly uploadWaitMs: number
  /** How long a download waits for a slot. Shorter, because a download that stalls has mostly done so for a while. */
  readonly downloadWaitMs: number
}

interface AdmissionDeps {
  readonly limits: Limits
  readonly times: SlotTimes
  /** The sender of a request: the id of a token, or an address. */
  readonly ownerOf: (request: FastifyRequest) => string
}

/** Below this rate a client gives up its slot to one that waits. Four times the default least rate, and half of a link of 1 Mbit/s. */
const SLOW_BYTES_PER_SECOND = 64 * 1024
/** Below this rate a download stalls. */
const STALLED_BYTES_PER_SECOND = 4 * 1024
/** Milliseconds that a download which is slow but does not stall keeps its slot while others wait. */
const SLOW_DOWNLOAD_MS = 60_000
/** Bytes of the largest download that counts as short: one chunk of a stream. */
const SHORT_BYTES = 2 * 1024 * 1024

/** Slots for uploads. An upload with a slow client ends when another one needs its slot, unless all of its body has arrived. */
export class Uploads {
  readonly #slots: SlotQueue
  readonly #ownerOf: AdmissionDeps['ownerOf']
  readonly #signals = new WeakMap<FastifyRequest, AbortSignal>()

  constructor({ limits, times: { stalledMs, uploadWaitMs: waitMs }, ownerOf }: AdmissionDeps) {
    const slow = [{ bytesPerSecond: SLOW_BYTES_PER_SECOND, windowMs: stalledMs }]
    this.#slots = new SlotQueue({ what: 'uploads', most: limits.uploads, slow, waitMs })
    this.#ownerOf = ownerOf
  }

  /** An `onRequest` hook that waits for a slot. Rejects `overloaded`, `client-closed`. */
  get hook() {
    return async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
      const { raw } = request
      const { socket } = raw
      const end = new AbortController()
      this.#signals.set(request, end.signal)
      await this.#slots.enter(reply.raw, {
        owner: this.#ownerOf(request),
        moved: () => socket.bytesRead,
        isAwaited: () => !raw.complete && !raw.isPaused(),
        end: why => end.abort(gaveWay(why)),
      })
    }
  }

  /** Aborts when the request, which {@link hook} let in, loses its slot. Reason: RegistryError `upload-too-slow` or `overloaded`. */
  signalOf(request: FastifyRequest): AbortSignal {
    return this.#signals.get(request)!
  }
}

function gaveWay(why: 'slow' | 'share'): RegistryError {
  return why === 'slow'
    ? new RegistryError(
        'upload-too-slow',
        `all slots are taken and others wait: expected at least ${SLOW_BYTES_PER_SECOND} bytes per second`,
      )
    : new RegistryError('overloaded', 'all slots are taken, and others that have fewer wait')
}

/**
 * Slots for downloads. Each download holds memory for what its client has not taken yet. One whose client stalls, or is slow for long, ends when
 * another needs its slot; a client that is still there can continue with a range. Short downloads have as many slots of their own, so that large
 * ones never keep a client from a header.
 */
export class Downloads {
  readonly #short: SlotQueue
  readonly #long: SlotQueue
  readonly #ownerOf: AdmissionDeps['ownerOf']

  constructor({ limits, times: { stalledMs, downloadWaitMs: waitMs }, ownerOf }: AdmissionDeps) {
    const slow = [
      { bytesPerSecond: STALLED_BYTES_PER_SECOND, windowMs: stalledMs },
      { bytesPerSecond: SLOW_BYTES_PER_SECOND, windowMs: SLOW_DOWNLOAD_MS },
    ]
    const rules = { what: 'downloads', most: limits.downloads, slow, waitMs }
    this.#short = new SlotQueue(rules)
    this.#long = new SlotQueue(rules)
    this.#ownerOf = ownerOf
  }

  /** Waits for a slot for a download of `size` bytes, which it keeps until its answer closes. Rejects `overloaded`, `client-closed`. */
  enter(request: FastifyRequest, { raw }: FastifyReply, size: number): Promise<void> {
    const { socket } = request.raw
    const slots = size <= SHORT_BYTES ? this.#short : this.#long
    return slots.enter(raw, {
      owner: this.#ownerOf(request),
      moved: () => takenBytes(socket),
      isAwaited: () => socket.writableLength > 0,
      end: () => raw.destroy(),
    })
  }
}

/** What Node knows about a socket but does not publish. Its own timeout looks at the same to tell a slow reader from an idle one. */
interface Handle {
  readonly bytesWritten: number
  /** Bytes handed to libuv that the system has not taken yet. */
  readonly writeQueueSize: number
}

/** Bytes that the system has taken for the client. The callback of a write comes only after the last byte of a whole chunk. */
function takenBytes(socket: Socket): number {
  const { _handle: handle } = socket as Socket & { readonly _handle: Handle | null }
  return handle ? handle.bytesWritten - handle.writeQueueSize : socket.bytesWritten
}
