-- Models and what they are made of. A row of models is never changed but for parent and damaged.
CREATE TABLE models (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE CHECK (length(id) = 40),
  name TEXT NOT NULL,
  revision TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('base', 'delta')),
  strategy TEXT NOT NULL CHECK (strategy IN ('whole', 'lossless', 'int4', 'sparse', 'quantized')),
  parent TEXT REFERENCES models (id),
  tensors INTEGER NOT NULL,
  parameters INTEGER NOT NULL,
  dtypes TEXT NOT NULL,
  size INTEGER NOT NULL,
  sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
  stored_size INTEGER NOT NULL,
  hash_stored TEXT NOT NULL,
  hash_shard_order TEXT NOT NULL,
  hash_float32 TEXT,
  signature TEXT NOT NULL,
  manifest TEXT NOT NULL REFERENCES blobs (key),
  delta TEXT REFERENCES blobs (key),
  error TEXT,
  damaged TEXT,
  message TEXT NOT NULL,
  created_at TEXT NOT NULL,
  CHECK (kind = 'base' OR parent IS NOT NULL),
  CHECK ((kind = 'delta') = (delta IS NOT NULL))
) STRICT;

CREATE INDEX models_by_name ON models (name, revision, seq);
CREATE INDEX models_by_parent ON models (parent, seq);
CREATE INDEX models_by_hash_stored ON models (hash_stored);
CREATE INDEX models_by_hash_shard_order ON models (hash_shard_order);
CREATE INDEX models_by_hash_float32 ON models (hash_float32);
CREATE INDEX models_by_signature ON models (signature, seq);

-- The files that a model serves; blob is null where the bytes are reconstructed.
CREATE TABLE files (
  model TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  path TEXT NOT NULL,
  size INTEGER NOT NULL,
  sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
  blob TEXT REFERENCES blobs (key),
  PRIMARY KEY (model, path)
) STRICT, WITHOUT ROWID;

-- Content is known by its hash and stored under a random key.
CREATE TABLE blobs (
  key TEXT PRIMARY KEY,
  sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
  size INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX blobs_by_content ON blobs (sha256, size);

-- Which blobs a model needs: a blob without a row here may be swept.
CREATE TABLE model_blobs (
  model TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
  blob TEXT NOT NULL REFERENCES blobs (key),
  PRIMARY KEY (model, blob)
) STRICT, WITHOUT ROWID;

CREATE INDEX model_blobs_by_blob ON model_blobs (blob);

CREATE TABLE revisions (
  name TEXT NOT NULL,
  revision TEXT NOT NULL,
  model TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
  PRIMARY KEY (name, revision)
) STRICT, WITHOUT ROWID;

CREATE INDEX revisions_by_model ON revisions (model);

-- Tokens by their public id; only the hash of the secret is kept.
CREATE TABLE tokens (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  scope TEXT NOT NULL CHECK (scope IN ('read', 'write', 'admin')),
  secret_hash TEXT NOT NULL,
  created_at TEXT NOT NULL,
  expires_at TEXT
) STRICT, WITHOUT ROWID;
