-- Damage is a matter of blobs: that of a model follows when it is shown. Marks that only a model has, as schema version 2 made them, move to
-- the blob that they name; those that a delta has for its parent's sake have no blob of their own and go.
-- A mark that is no longer one is left out: the next read of what is bad makes it again.
INSERT INTO damaged_blobs
SELECT blob, offset, at FROM (
  SELECT mark ->> 'offset' AS offset, mark ->> 'at' AS at, CASE
      WHEN mark ->> 'file' = replace(name, '/', '--') || '.wdelta' THEN delta
      WHEN mark ->> 'file' = 'manifest' THEN manifest
      ELSE (SELECT blob FROM files WHERE model = id AND path = mark ->> 'file')
    END AS blob
  FROM (SELECT *, iif(json_valid(damaged), damaged, NULL) AS mark FROM models WHERE damaged IS NOT NULL)
)
WHERE blob IS NOT NULL AND typeof(offset) = 'integer' AND typeof(at) = 'text'
ON CONFLICT DO NOTHING;
ALTER TABLE models DROP COLUMN damaged;

-- What the files of a model come to, so that nobody must read them to know. The digests are over what a row and its files hold: a row that has
-- another one is not what was inserted. Null until the catalog is opened.
ALTER TABLE models ADD COLUMN files_total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN files_size INTEGER NOT NULL DEFAULT 0;
ALTER TABLE models ADD COLUMN files_digest TEXT;
ALTER TABLE models ADD COLUMN digest TEXT;
UPDATE models SET
  files_total = (SELECT count(*) FROM files WHERE model = id),
  files_size = (SELECT coalesce(sum(size), 0) FROM files WHERE model = id);
CREATE INDEX models_unsealed ON models (id) WHERE digest IS NULL;

-- A page of a list is read from an index, whatever it selects by.
CREATE INDEX models_by_repository ON models (name, seq);
CREATE INDEX models_by_revision ON models (revision, seq);
CREATE INDEX tokens_by_time ON tokens (created_at, id);

-- Blobs that no model needs, kept as references come and go: to look for them would be to read all of both tables.
CREATE TABLE loose_blobs (
  key TEXT PRIMARY KEY REFERENCES blobs (key) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
INSERT INTO loose_blobs
SELECT key FROM blobs WHERE NOT EXISTS (SELECT 1 FROM model_blobs WHERE blob = blobs.key);

-- What /stats tells, in one row.
CREATE TABLE totals (
  models INTEGER NOT NULL,
  bases INTEGER NOT NULL,
  deltas INTEGER NOT NULL,
  logical_bytes INTEGER NOT NULL,
  stored_bytes INTEGER NOT NULL
) STRICT;
INSERT INTO totals
SELECT count(*), count(*) FILTER (WHERE kind = 'base'), count(*) FILTER (WHERE kind = 'delta'), coalesce(sum(files_size), 0),
  (SELECT coalesce(sum(size), 0) FROM blobs WHERE key IN (SELECT blob FROM model_blobs))
FROM models;

CREATE TRIGGER model_inserted AFTER INSERT ON models BEGIN
  UPDATE totals SET models = models + 1, bases = bases + (NEW.kind = 'base'), deltas = deltas + (NEW.kind = 'delta'),
    logical_bytes = logical_bytes + NEW.files_size;
END;

CREATE TRIGGER model_deleted AFTER DELETE ON models BEGIN
  UPDATE totals SET models = models - 1, bases = bases - (OLD.kind = 'base'), deltas = deltas - (OLD.kind = 'delta'),
    logical_bytes = logical_bytes - OLD.files_size;
END;

CREATE TRIGGER first_reference AFTER INSERT ON model_blobs
WHEN NOT EXISTS (SELECT 1 FROM model_blobs WHERE blob = NEW.blob AND model <> NEW.model) BEGIN
  UPDATE totals SET stored_bytes = stored_bytes + (SELECT size FROM blobs WHERE key = NEW.blob);
  DELETE FROM loose_blobs WHERE key = NEW.blob;
END;

CREATE TRIGGER last_reference AFTER DELETE ON model_blobs
WHEN NOT EXISTS (SELECT 1 FROM model_blobs WHERE blob = OLD.blob) BEGIN
  UPDATE totals SET stored_bytes = stored_bytes - (SELECT size FROM blobs WHERE key = OLD.blob);
  INSERT INTO loose_blobs VALUES (OLD.blob) ON CONFLICT DO NOTHING;
END;
