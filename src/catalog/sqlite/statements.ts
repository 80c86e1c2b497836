import type { Database } from 'better-sqlite3'
import type { BlobRecord, DamagedBlob, FileRecord, Stats, TokenRecord } from '../records.ts'
import type { ModelRow } from '../rows.ts'

export type Statements = ReturnType<typeof prepareStatements>

/** A damaged blob of a model; `file` is null for its delta and its manifest, unless a file is the same blob. */
export interface DamagedPart {
  readonly key: string
  readonly offset: number
  readonly at: string
  readonly file: string | null
}

const DAMAGED_PART = `
  key, offset, at,
  (SELECT path FROM files WHERE model = model_blobs.model AND blob = key ORDER BY position LIMIT 1) AS file`

const TOKEN_COLUMNS =
  'id, name, scope, secret_hash AS secretHash, created_at AS createdAt, expires_at AS expiresAt'

/** Every statement of the catalog, prepared once. */
export function prepareStatements(db: Database) {
  return {
    insertModel: db.prepare(`
      INSERT INTO models (id, name, revision, kind, strategy, parent, tensors, parameters, dtypes, size, sha256,
        stored_size, hash_stored, hash_shard_order, hash_float32, signature, manifest, delta, error, message,
        created_at, files_total, files_size, files_digest, digest)
      VALUES (:id, :name, :revision, :kind, :strategy, :parent, :tensors, :parameters, :dtypes, :size, :sha256,
        :stored_size, :hash_stored, :hash_shard_order, :hash_float32, :signature, :manifest, :delta, :error, :message,
        :created_at, :files_total, :files_size, :files_digest, :digest)`),
    insertFile: db.prepare('INSERT INTO files VALUES (?, ?, ?, ?, ?, ?)'),
    insertBlob: db.prepare('INSERT INTO blobs VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING'),
    insertModelBlob: db.prepare('INSERT INTO model_blobs VALUES (?, ?) ON CONFLICT DO NOTHING'),
    moveRevision: db.prepare(`
      INSERT INTO revisions VALUES (?, ?, ?)
      ON CONFLICT (name, revision) DO UPDATE SET model = excluded.model
      WHERE (SELECT created_at FROM models WHERE id = revisions.model)
        <= (SELECT created_at FROM models WHERE id = excluded.model)`),
    dropRevision: db.prepare<[string, string, string]>(`
      DELETE FROM revisions WHERE name = ? AND revision = ?
        AND (SELECT created_at FROM models WHERE id = revisions.model) < ?`),
    identity: db.prepare<[], { id: string }>('SELECT id FROM identity'),
    setIdentity: db.prepare('UPDATE identity SET id = ?'),
    modelById: db.prepare<[string], ModelRow>('SELECT * FROM models WHERE id = ?'),
    modelByRevision: db.prepare<[string, string], ModelRow>(`
      SELECT models.* FROM revisions JOIN models ON models.id = revisions.model
      WHERE revisions.name = ? AND revisions.revision = ?`),
    // A limit of -1 means no limit.
    filesOf: db.prepare<[string, number], FileRecord>(
      'SELECT path, size, sha256, blob FROM files WHERE model = ? ORDER BY position LIMIT ?',
    ),
    deltasOf: db.prepare<[string, number], { id: string }>(
      "SELECT id FROM models WHERE parent = ? AND kind = 'delta' ORDER BY seq DESC LIMIT ?",
    ),
    countDeltasOf: db.prepare<[string], { count: number }>(
      "SELECT count(*) AS count FROM models WHERE parent = ? AND kind = 'delta'",
    ),
    linkOf: db.prepare<[string], { seq: number; kind: string; parent: string | null }>(
      'SELECT seq, kind, parent FROM models WHERE id = ?',
    ),
    unsealedModels: db.prepare<[number], ModelRow>(
      'SELECT * FROM models WHERE digest IS NULL LIMIT ?',
    ),
    sealModel: db.prepare('UPDATE models SET files_digest = ?, digest = ? WHERE id = ?'),
    distrust: db.prepare("UPDATE models SET digest = '' WHERE id = ?"),
    // Each index gives its newest rows in order. If thousands of models have one hash, a condition with OR would read and sort all of them.
    modelsByHash: db.prepare<{ hash: string; limit: number }, ModelRow>(`
      SELECT * FROM models WHERE seq IN (
        SELECT * FROM (SELECT seq FROM models WHERE hash_stored = :hash ORDER BY seq DESC LIMIT :limit)
        UNION SELECT * FROM (SELECT seq FROM models WHERE hash_shard_order = :hash ORDER BY seq DESC LIMIT :limit)
        UNION SELECT * FROM (SELECT seq FROM models WHERE hash_float32 = :hash ORDER BY seq DESC LIMIT :limit)
      )
      ORDER BY seq DESC LIMIT :limit`),
    // Models of equal hash and signature whose tensors all have one dtype are equal. With several dtypes, the digest tells which tensor has which.
    candidates: db.prepare<
      {
        hash: string
        signature: string | null
        count: number | null
        scanned: number
        limit: number
      },
      ModelRow
    >(`
      WITH found AS (
        SELECT * FROM (SELECT seq FROM models WHERE hash_stored = :hash ORDER BY seq DESC LIMIT :scanned)
        UNION
        SELECT * FROM (SELECT seq FROM models WHERE hash_shard_order = :hash ORDER BY seq DESC LIMIT :scanned)
        UNION
        SELECT * FROM (SELECT seq FROM models WHERE hash_float32 = :hash ORDER BY seq DESC LIMIT :scanned)
      )
      SELECT * FROM models WHERE seq IN (
        SELECT max(seq) FROM found JOIN models USING (seq)
        WHERE :signature IS NULL OR signature = :signature OR tensors > :count
        GROUP BY signature, dtypes, :hash IN (hash_stored, hash_shard_order),
          CASE WHEN dtypes LIKE '%,%' THEN sha256 END
      )
      ORDER BY seq DESC LIMIT :limit`),
    modelsBySignature: db.prepare<[string, number], ModelRow>(
      'SELECT * FROM models WHERE signature = ? ORDER BY seq DESC LIMIT ?',
    ),
    orphanBases: db.prepare("UPDATE models SET parent = NULL WHERE parent = ? AND kind = 'base'"),
    deleteModel: db.prepare('DELETE FROM models WHERE id = ?'),
    setManifest: db.prepare(
      'UPDATE models SET manifest = ?, stored_size = stored_size + ? WHERE id = ?',
    ),
    deleteModelBlob: db.prepare('DELETE FROM model_blobs WHERE model = ? AND blob = ?'),
    stats: db.prepare<[], Stats>(`
      SELECT models, bases, deltas, logical_bytes AS logicalBytes, stored_bytes AS storedBytes FROM totals`),
    blobByContent: db.prepare<[string, number], BlobRecord>(`
      SELECT key, sha256, size FROM blobs
      WHERE sha256 = ? AND size = ? AND key NOT IN (SELECT key FROM damaged_blobs) LIMIT 1`),
    modelsByManifest: db.prepare<[string, string, number], ModelRow>(
      'SELECT * FROM models WHERE manifest > ? AND manifest < ? ORDER BY manifest LIMIT ?',
    ),
    modelsOfBlob: db.prepare<[string, number], ModelRow>(`
      SELECT models.* FROM model_blobs JOIN models ON models.id = model_blobs.model
      WHERE model_blobs.blob = ? ORDER BY models.seq LIMIT ?`),
    countDamage: db.prepare<[number], { count: number }>(
      'SELECT count(*) AS count FROM (SELECT 1 FROM damaged_blobs LIMIT ?)',
    ),
    // SQLite joins a CROSS JOIN in the order written: few damaged blobs are looked up in the model, and the model's blobs among many damaged ones.
    damagedPartsByBlob: db.prepare<[string], DamagedPart>(`
      SELECT ${DAMAGED_PART} FROM damaged_blobs CROSS JOIN model_blobs ON model = ? AND blob = key
      ORDER BY at, key`),
    damagedPartsByModel: db.prepare<[string], DamagedPart>(`
      SELECT ${DAMAGED_PART} FROM model_blobs CROSS JOIN damaged_blobs ON key = blob
      WHERE model = ? ORDER BY at, key`),
    damageBlob: db.prepare('INSERT INTO damaged_blobs VALUES (?, ?, ?) ON CONFLICT DO NOTHING'),
    mendBlob: db.prepare('DELETE FROM damaged_blobs WHERE key = ?'),
    damagedBlobs: db.prepare<[], DamagedBlob>(`
      SELECT key, sha256, size, offset, at FROM damaged_blobs JOIN blobs USING (key) ORDER BY key`),
    blobByKey: db.prepare<[string], BlobRecord>(
      'SELECT key, sha256, size FROM blobs WHERE key = ?',
    ),
    blobKeys: db
      .prepare<[string, number], string>('SELECT key FROM blobs WHERE key > ? ORDER BY key LIMIT ?')
      .pluck(),
    // A blob that a file or a model names is needed, even if its row in model_blobs is lost.
    isNamed: db.prepare<{ key: string }, { is: number }>(`
      SELECT EXISTS (SELECT 1 FROM model_blobs WHERE blob = :key) OR EXISTS (SELECT 1 FROM files WHERE blob = :key)
        OR EXISTS (SELECT 1 FROM models WHERE manifest = :key) OR EXISTS (SELECT 1 FROM models WHERE delta = :key) AS "is"`),
    unreferencedBlobs: db.prepare<[string, number], BlobRecord>(`
      SELECT key, sha256, size FROM loose_blobs JOIN blobs USING (key)
      WHERE key > ? AND NOT EXISTS (SELECT 1 FROM model_blobs WHERE blob = key)
        AND NOT EXISTS (SELECT 1 FROM files WHERE blob = key)
        AND NOT EXISTS (SELECT 1 FROM models WHERE manifest = key)
        AND NOT EXISTS (SELECT 1 FROM models WHERE delta = key)
      ORDER BY key LIMIT ?`),
    forgetBlob: db.prepare(
      'DELETE FROM blobs WHERE key = ? AND NOT EXISTS (SELECT 1 FROM model_blobs WHERE blob = ?)',
    ),
    insertToken: db.prepare(
      'INSERT INTO tokens VALUES (:id, :name, :scope, :secretHash, :createdAt, :expiresAt)',
    ),
    tokenById: db.prepare<[string], TokenRecord>(
      `SELECT ${TOKEN_COLUMNS} FROM tokens WHERE id = ?`,
    ),
    listTokens: db.prepare<[string, string, number], TokenRecord>(`
      SELECT ${TOKEN_COLUMNS} FROM tokens WHERE (created_at, id) < (?, ?)
      ORDER BY created_at DESC, id DESC LIMIT ?`),
    deleteToken: db.prepare('DELETE FROM tokens WHERE id = ?'),
  }
}

/** The columns that a list may select by. */
export const SELECTORS = ['name', 'revision', 'parent'] as const

export type Selector = (typeof SELECTORS)[number]

/**
 * The statement that lists models by `selectors`, newest first. Parameters: the `seq` that it begins before, the values of the selectors, the limit.
 * Each selection has a text of its own, so that SQLite takes the index that fits it.
 */
export function prepareList(db: Database, selectors: readonly Selector[]) {
  const where = ['seq < ?', ...selectors.map(selector => `${selector} = ?`)].join(' AND ')
  return db.prepare<(string | number)[], ModelRow>(
    `SELECT * FROM models WHERE ${where} ORDER BY seq DESC LIMIT ?`,
  )
}
