import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { Catalog } from '../catalog/catalog.ts'
import type { Scope, TokenRecord } from '../catalog/records.ts'
import { RegistryError } from '../errors.ts'
import type { Token } from './registry.ts'

/**
 * `wdr_<id>_<secret><checksum>`: id 16 hex digits, secret 32 random bytes in hex, CRC-32 of all before it in hex. The checksum lets
 * secret scanners and a typing error be told without a look-up. With 256 random bits, SHA-256 is all the hash it needs.
 */
const TOKEN = /^wdr_([0-9a-f]{16})_[0-9a-f]{64}([0-9a-f]{8})$/

const checksum = (text: string) => crc32(text).toString(16).padStart(8, '0')
const sha256 = (text: string) => createHash('sha256').update(text).digest()

/** Makes a token and stores its hash; the secret is in the answer this once. Rejects `bad-request` for a past expiry. */
export async function createToken(
  catalog: Catalog,
  { name, scope, expiresAt }: { name: string; scope: Scope; expiresAt?: string | undefined },
): Promise<Token & { token: string }> {
  const expiry = expiresAt === undefined ? null : new Date(expiresAt)
  if (expiry && !(expiry.getTime() > Date.now())) {
    throw new RegistryError('bad-request', `expiresAt: expected a time to come, got ${expiresAt}`)
  }
  const id = randomBytes(8).toString('hex')
  const body = `wdr_${id}_${randomBytes(32).toString('hex')}`
  const token = body + checksum(body)
  const record: TokenRecord = {
    id,
    name,
    scope,
    secretHash: sha256(token).toString('hex'),
    createdAt: new Date().toISOString(),
    expiresAt: expiry?.toISOString() ?? null,
  }
  await catalog.insertToken(record)
  return { ...toToken(record), token }
}

/** The token's id and scope; null if it is malformed, unknown or expired. */
export async function authenticate(
  catalog: Catalog,
  token: string,
): Promise<{ id: string; scope: Scope } | null> {
  const match = TOKEN.exec(token)
  if (!match || checksum(token.slice(0, -8)) !== match[2]) return null
  const record = await catalog.findToken(match[1]!)
  if (!record || !timingSafeEqual(sha256(token), Buffer.from(record.secretHash, 'hex'))) return null
  if (record.expiresAt !== null && Date.parse(record.expiresAt) <= Date.now()) return null
  return { id: record.id, scope: record.scope }
}

/** A token as it may be shown. */
export function toToken({ id, name, scope, createdAt, expiresAt }: TokenRecord): Token {
  return { id, name, scope, createdAt, expiresAt }
}
