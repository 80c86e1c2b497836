import type { Database } from 'better-sqlite3'
import type { BlobRecord, DamagedBlob, FileRecord, Stats, TokenRecord } from './catalog.ts'
import type { ModelRow } from './rows.ts'

export type Statements = ReturnType<typeof prepareStatements>

const TOKEN_COLUMNS =
  'id, name, scope, secret_hash AS secretHash, created_at AS createdAt, expires_at AS expiresAt'

/** Every statement of the catalog, prepared once. */
export function prepareStatements(db: Database) {
  return {
    insertModel: db.prepare(`
      INSERT INTO models (id, name, revision, kind, strategy, parent, tensors, parameters, dtypes, size, sha256,
        stored_size, hash_stored, hash_shard_order, hash_float32, signature, manifest, delta, error, damaged,
        message, created_at)
      VALUES (:id, :name, :revision, :kind, :strategy, :parent, :tensors, :parameters, :dtypes, :size, :sha256,
        :storedSize, :hashStored, :hashShardOrder, :hashFloat32, :signature, :manifest, :delta, :error, :damaged,
        :message, :createdAt)`),
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
    filesOf: db.prepare<[string], FileRecord>(
      'SELECT path, size, sha256, blob FROM files WHERE model = ? ORDER BY position',
    ),
    listModels: db.prepare<
      {
        name: string | null
        revision: string | null
        parent: string | null
        before: number
        limit: number
      },
      ModelRow
    >(`
      SELECT * FROM models
      WHERE seq < :before AND (:name IS NULL OR name = :name)
        AND (:revision IS NULL OR revision = :revision) AND (:parent IS NULL OR parent = :parent)
      ORDER BY seq DESC LIMIT :limit`),
    childrenOf: db.prepare<[string], ModelRow>(
      'SELECT * FROM models WHERE parent = ? ORDER BY seq DESC',
    ),
    deltasOf: db.prepare<[string], { id: string }>(
      "SELECT id FROM models WHERE parent = ? AND kind = 'delta' ORDER BY seq DESC",
    ),
    // A parent is always older than its child, so seq is the order from the base on.
    lineageOf: db.prepare<[string], ModelRow>(`
      WITH RECURSIVE lineage (id) AS (
        SELECT ?
        UNION
        SELECT models.parent FROM lineage JOIN models ON models.id = lineage.id
        WHERE models.parent IS NOT NULL
      )
      SELECT models.* FROM lineage JOIN models ON models.id = lineage.id ORDER BY models.seq`),
    modelsByHash: db.prepare<[string, string, string], ModelRow>(`
      SELECT * FROM models WHERE hash_stored = ? OR hash_shard_order = ? OR hash_float32 = ?
      ORDER BY seq DESC`),
    modelsBySignature: db.prepare<[string, number], ModelRow>(
      'SELECT * FROM models WHERE signature = ? ORDER BY seq DESC LIMIT ?',
    ),
    orphanBases: db.prepare("UPDATE models SET parent = NULL WHERE parent = ? AND kind = 'base'"),
    deleteModel: db.prepare('DELETE FROM models WHERE id = ?'),
    setManifest: db.prepare(
      'UPDATE models SET manifest = ?, stored_size = stored_size + ? WHERE id = ?',
    ),
    deleteModelBlob: db.prepare('DELETE FROM model_blobs WHERE model = ? AND blob = ?'),
    setDamaged: db.prepare('UPDATE models SET damaged = ? WHERE id = ?'),
    stats: db.prepare<[], Stats>(`
      SELECT count(*) AS models,
        count(*) FILTER (WHERE kind = 'base') AS bases,
        count(*) FILTER (WHERE kind = 'delta') AS deltas,
        (SELECT coalesce(sum(size), 0) FROM files) AS logicalBytes,
        (SELECT coalesce(sum(size), 0) FROM blobs WHERE key IN (SELECT blob FROM model_blobs)) AS storedBytes
      FROM models`),
    blobByContent: db.prepare<[string, number], BlobRecord>(`
      SELECT key, sha256, size FROM blobs
      WHERE sha256 = ? AND size = ? AND key NOT IN (SELECT key FROM damaged_blobs) LIMIT 1`),
    modelsOfBlob: db.prepare<[string], ModelRow>(`
      SELECT models.* FROM model_blobs JOIN models ON models.id = model_blobs.model
      WHERE model_blobs.blob = ? ORDER BY models.seq`),
    damageBlob: db.prepare('INSERT INTO damaged_blobs VALUES (?, ?, ?) ON CONFLICT DO NOTHING'),
    mendBlob: db.prepare('DELETE FROM damaged_blobs WHERE key = ?'),
    damagedBlobs: db.prepare<[], DamagedBlob>(`
      SELECT key, sha256, size, offset, at FROM damaged_blobs JOIN blobs USING (key) ORDER BY key`),
    blobByKey: db.prepare<[string], BlobRecord>(
      'SELECT key, sha256, size FROM blobs WHERE key = ?',
    ),
    unreferencedBlobs: db.prepare<[], BlobRecord>(`
      SELECT key, sha256, size FROM blobs
      WHERE NOT EXISTS (SELECT 1 FROM model_blobs WHERE blob = blobs.key)`),
    forgetBlob: db.prepare(
      'DELETE FROM blobs WHERE key = ? AND NOT EXISTS (SELECT 1 FROM model_blobs WHERE blob = ?)',
    ),
    insertToken: db.prepare(
      'INSERT INTO tokens VALUES (:id, :name, :scope, :secretHash, :createdAt, :expiresAt)',
    ),
    tokenById: db.prepare<[string], TokenRecord>(
      `SELECT ${TOKEN_COLUMNS} FROM tokens WHERE id = ?`,
    ),
    listTokens: db.prepare<[], TokenRecord>(
      `SELECT ${TOKEN_COLUMNS} FROM tokens ORDER BY created_at DESC, id`,
    ),
    deleteToken: db.prepare('DELETE FROM tokens WHERE id = ?'),
  }
}
