import { randomBytes } from 'node:crypto'
import { RegistryError } from '../errors.ts'

const KEY = /^blobs\/[0-9a-f]{2}\/[0-9a-f]{32}$/

/** A new random key: `blobs/<2 hex>/<32 hex>`, the first two digits again as a folder. */
export function newBlobKey(): string {
  const name = randomBytes(16).toString('hex')
  return `blobs/${name.slice(0, 2)}/${name}`
}

/** True for what {@link newBlobKey} makes. */
export function isBlobKey(key: string): boolean {
  return KEY.test(key)
}

/** @throws RegistryError `storage-failed` for anything but a key of {@link newBlobKey}: no path may leave the store. */
export function checkBlobKey(key: string): void {
  if (isBlobKey(key)) return
  throw new RegistryError('storage-failed', `${JSON.stringify(key)} is not the key of a blob`)
}
