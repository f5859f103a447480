-- Made by tests/waxwing/databases/test_sqlserver.py; delete this file and run the test to record it anew.

-- ---- append
SET NOCOUNT ON;
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT j."id", j."price", CAST(j."at" AS datetimeoffset(7)), CONVERT(varbinary(max), j."blob", 2), j."version"
FROM OPENJSON(?) WITH ("id" nvarchar(37) '$[0]', "price" decimal(10, 2) '$[1]', "at" nvarchar(40) '$[2]', "blob" nvarchar(max) '$[3]', "version" int '$[4]') AS j;
SET NOCOUNT OFF;

-- ---- upsert
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, "id" nvarchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "price" decimal(10, 2) NULL, "at" datetimeoffset(7) NULL, "blob" varbinary(max) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, "id", "price", "at", "blob", "version")
SELECT j.waxwing_n, j."id", j."price", CAST(j."at" AS datetimeoffset(7)), CONVERT(varbinary(max), j."blob", 2), j."version"
FROM (SELECT j.waxwing_n, FIRST_VALUE(j."id") OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY j.waxwing_n) AS "id", j."price", j."at", j."blob", j."version", ROW_NUMBER() OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', "id" nvarchar(37) '$[1]', "price" decimal(10, 2) '$[2]', "at" nvarchar(40) '$[3]', "blob" nvarchar(max) '$[4]', "version" int '$[5]') AS j) AS j
WHERE j.waxwing_last = 1;
DECLARE @updated int;
UPDATE t
SET "price" = s."price", "at" = s."at", "blob" = s."blob", "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @updated = @@ROWCOUNT;
IF @updated <> (SELECT COUNT(*) FROM #waxwing_stage)
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT s."id", s."price", s."at", s."blob", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert: keys that are known to differ
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage ("id" nvarchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "price" decimal(10, 2) NULL, "at" datetimeoffset(7) NULL, "blob" varbinary(max) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage ("id", "price", "at", "blob", "version")
SELECT j."id", j."price", CAST(j."at" AS datetimeoffset(7)), CONVERT(varbinary(max), j."blob", 2), j."version"
FROM OPENJSON(?) WITH ("id" nvarchar(37) '$[0]', "price" decimal(10, 2) '$[1]', "at" nvarchar(40) '$[2]', "blob" nvarchar(max) '$[3]', "version" int '$[4]') AS j;
DECLARE @updated int;
UPDATE t
SET "price" = s."price", "at" = s."at", "blob" = s."blob", "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @updated = @@ROWCOUNT;
IF @updated <> (SELECT COUNT(*) FROM #waxwing_stage)
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT s."id", s."price", s."at", s."blob", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert: with deletes
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, waxwing_gone int NOT NULL, waxwing_deleted int NOT NULL, "id" nvarchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "price" decimal(10, 2) NULL, "at" datetimeoffset(7) NULL, "blob" varbinary(max) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, waxwing_gone, waxwing_deleted, "id", "price", "at", "blob", "version")
SELECT j.waxwing_n, j.waxwing_gone, j.waxwing_deleted, j."id", j."price", CAST(j."at" AS datetimeoffset(7)), CONVERT(varbinary(max), j."blob", 2), j."version"
FROM (SELECT j.waxwing_n, j.waxwing_gone, FIRST_VALUE(j."id") OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY CASE WHEN j.waxwing_n > j.waxwing_until THEN 0 ELSE 1 END, j.waxwing_n) AS "id", j."price", j."at", j."blob", j."version", CASE WHEN j.waxwing_until < 0 THEN 0 ELSE 1 END AS waxwing_deleted, ROW_NUMBER() OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM (SELECT j.*, MAX(CASE j.waxwing_gone WHEN 1 THEN j.waxwing_n ELSE -1 END) OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS) AS waxwing_until
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', waxwing_gone int '$[1]', "id" nvarchar(37) '$[2]', "price" decimal(10, 2) '$[3]', "at" nvarchar(40) '$[4]', "blob" nvarchar(max) '$[5]', "version" int '$[6]') AS j) AS j) AS j
WHERE j.waxwing_last = 1;
DELETE t
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
WHERE s.waxwing_deleted = 1
OPTION (LOOP JOIN, FORCE ORDER);
DELETE FROM #waxwing_stage WHERE waxwing_gone = 1;
DECLARE @updated int;
UPDATE t
SET "price" = s."price", "at" = s."at", "blob" = s."blob", "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @updated = @@ROWCOUNT;
IF @updated <> (SELECT COUNT(*) FROM #waxwing_stage)
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT s."id", s."price", s."at", s."blob", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert among triggers
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, "id" varchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, "id", "version")
SELECT j.waxwing_n, j."id", j."version"
FROM (SELECT j.waxwing_n, FIRST_VALUE(j."id") OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36)) ORDER BY j.waxwing_n) AS "id", j."version", ROW_NUMBER() OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36)) ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', "id" nvarchar(37) '$[1]', "version" int '$[2]') AS j) AS j
WHERE j.waxwing_last = 1;
UPDATE t
SET "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
INSERT INTO "my shop".orders ("id", "version")
SELECT s."id", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert among triggers: keys that are known to differ
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage ("id" varchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage ("id", "version")
SELECT j."id", j."version"
FROM OPENJSON(?) WITH ("id" nvarchar(37) '$[0]', "version" int '$[1]') AS j;
UPDATE t
SET "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
INSERT INTO "my shop".orders ("id", "version")
SELECT s."id", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert among triggers: with deletes
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, waxwing_gone int NOT NULL, waxwing_deleted int NOT NULL, "id" varchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, waxwing_gone, waxwing_deleted, "id", "version")
SELECT j.waxwing_n, j.waxwing_gone, j.waxwing_deleted, j."id", j."version"
FROM (SELECT j.waxwing_n, j.waxwing_gone, FIRST_VALUE(j."id") OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36)) ORDER BY CASE WHEN j.waxwing_n > j.waxwing_until THEN 0 ELSE 1 END, j.waxwing_n) AS "id", j."version", CASE WHEN j.waxwing_until < 0 THEN 0 ELSE 1 END AS waxwing_deleted, ROW_NUMBER() OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36)) ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM (SELECT j.*, MAX(CASE j.waxwing_gone WHEN 1 THEN j.waxwing_n ELSE -1 END) OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36))) AS waxwing_until
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', waxwing_gone int '$[1]', "id" nvarchar(37) '$[2]', "version" int '$[3]') AS j) AS j) AS j
WHERE j.waxwing_last = 1;
DELETE t
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
WHERE s.waxwing_deleted = 1
OPTION (LOOP JOIN, FORCE ORDER);
DELETE FROM #waxwing_stage WHERE waxwing_gone = 1;
UPDATE t
SET "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
INSERT INTO "my shop".orders ("id", "version")
SELECT s."id", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert when newer, a code page
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, "id" varchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, "id", "version")
SELECT j.waxwing_n, j."id", j."version"
FROM (SELECT j.waxwing_n, FIRST_VALUE(j."id") OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36)) ORDER BY j.waxwing_n) AS "id", j."version", ROW_NUMBER() OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36)) ORDER BY j."version" DESC, j.waxwing_n) AS waxwing_last
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', "id" nvarchar(37) '$[1]', "version" int '$[2]') AS j) AS j
WHERE j.waxwing_last = 1;
UPDATE t
SET "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
WHERE t."version" < s."version" OR (t."version" IS NULL AND s."version" IS NOT NULL)
OPTION (LOOP JOIN, FORCE ORDER);
INSERT INTO "my shop".orders ("id", "version")
SELECT s."id", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert when newer, a code page: keys that are known to differ
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage ("id" varchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage ("id", "version")
SELECT j."id", j."version"
FROM OPENJSON(?) WITH ("id" nvarchar(37) '$[0]', "version" int '$[1]') AS j;
UPDATE t
SET "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
WHERE t."version" < s."version" OR (t."version" IS NULL AND s."version" IS NOT NULL)
OPTION (LOOP JOIN, FORCE ORDER);
INSERT INTO "my shop".orders ("id", "version")
SELECT s."id", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert when newer, a code page: with deletes
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, waxwing_gone int NOT NULL, waxwing_deleted int NOT NULL, "id" varchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, waxwing_gone, waxwing_deleted, "id", "version")
SELECT j.waxwing_n, j.waxwing_gone, j.waxwing_deleted, j."id", j."version"
FROM (SELECT j.waxwing_n, j.waxwing_gone, FIRST_VALUE(j."id") OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36)) ORDER BY CASE WHEN j.waxwing_n > j.waxwing_until THEN 0 ELSE 1 END, j.waxwing_n) AS "id", j."version", CASE WHEN j.waxwing_until < 0 THEN 0 ELSE 1 END AS waxwing_deleted, ROW_NUMBER() OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36)) ORDER BY j."version" DESC, j.waxwing_n) AS waxwing_last
  FROM (SELECT j.*, MAX(CASE j.waxwing_gone WHEN 1 THEN j.waxwing_n ELSE -1 END) OVER (PARTITION BY CAST(j."id" COLLATE Latin1_General_CI_AS AS varchar(36))) AS waxwing_until
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', waxwing_gone int '$[1]', "id" nvarchar(37) '$[2]', "version" int '$[3]') AS j) AS j) AS j
WHERE j.waxwing_last = 1;
DELETE t
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
WHERE s.waxwing_deleted = 1
OPTION (LOOP JOIN, FORCE ORDER);
DELETE FROM #waxwing_stage WHERE waxwing_gone = 1;
UPDATE t
SET "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
WHERE t."version" < s."version" OR (t."version" IS NULL AND s."version" IS NOT NULL)
OPTION (LOOP JOIN, FORCE ORDER);
INSERT INTO "my shop".orders ("id", "version")
SELECT s."id", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert through the raw table
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, "id" nvarchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "price" decimal(10, 2) NULL, "at" datetimeoffset(7) NULL, "blob" varbinary(max) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, "id", "price", "at", "blob", "version")
SELECT j.waxwing_n, j."id", j."price", CAST(j."at" AS datetimeoffset(7)), j."blob", j."version"
FROM (SELECT j.waxwing_n, FIRST_VALUE(j."id") OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY j.waxwing_n) AS "id", j."price", j."at", j."blob", j."version", ROW_NUMBER() OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM (SELECT CAST(r.c0 AS int) AS waxwing_n, CAST(r.c1 AS nvarchar(37)) AS "id", CAST(r.c2 AS decimal(10, 2)) AS "price", CAST(r.c3 AS nvarchar(40)) AS "at", r.c4 AS "blob", CAST(r.c5 AS int) AS "version" FROM #waxwing_raw AS r) AS j) AS j
WHERE j.waxwing_last = 1;
DECLARE @updated int;
UPDATE t
SET "price" = s."price", "at" = s."at", "blob" = s."blob", "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @updated = @@ROWCOUNT;
IF @updated <> (SELECT COUNT(*) FROM #waxwing_stage)
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT s."id", s."price", s."at", s."blob", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert through the raw table: keys that are known to differ
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage ("id" nvarchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "price" decimal(10, 2) NULL, "at" datetimeoffset(7) NULL, "blob" varbinary(max) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage ("id", "price", "at", "blob", "version")
SELECT j."id", j."price", CAST(j."at" AS datetimeoffset(7)), j."blob", j."version"
FROM (SELECT CAST(r.c0 AS nvarchar(37)) AS "id", CAST(r.c1 AS decimal(10, 2)) AS "price", CAST(r.c2 AS nvarchar(40)) AS "at", r.c3 AS "blob", CAST(r.c4 AS int) AS "version" FROM #waxwing_raw AS r) AS j;
DECLARE @updated int;
UPDATE t
SET "price" = s."price", "at" = s."at", "blob" = s."blob", "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @updated = @@ROWCOUNT;
IF @updated <> (SELECT COUNT(*) FROM #waxwing_stage)
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT s."id", s."price", s."at", s."blob", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- upsert through the raw table: with deletes
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, waxwing_gone int NOT NULL, waxwing_deleted int NOT NULL, "id" nvarchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "price" decimal(10, 2) NULL, "at" datetimeoffset(7) NULL, "blob" varbinary(max) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, waxwing_gone, waxwing_deleted, "id", "price", "at", "blob", "version")
SELECT j.waxwing_n, j.waxwing_gone, j.waxwing_deleted, j."id", j."price", CAST(j."at" AS datetimeoffset(7)), j."blob", j."version"
FROM (SELECT j.waxwing_n, j.waxwing_gone, FIRST_VALUE(j."id") OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY CASE WHEN j.waxwing_n > j.waxwing_until THEN 0 ELSE 1 END, j.waxwing_n) AS "id", j."price", j."at", j."blob", j."version", CASE WHEN j.waxwing_until < 0 THEN 0 ELSE 1 END AS waxwing_deleted, ROW_NUMBER() OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM (SELECT j.*, MAX(CASE j.waxwing_gone WHEN 1 THEN j.waxwing_n ELSE -1 END) OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS) AS waxwing_until
  FROM (SELECT CAST(r.c0 AS int) AS waxwing_n, CAST(r.c1 AS int) AS waxwing_gone, CAST(r.c2 AS nvarchar(37)) AS "id", CAST(r.c3 AS decimal(10, 2)) AS "price", CAST(r.c4 AS nvarchar(40)) AS "at", r.c5 AS "blob", CAST(r.c6 AS int) AS "version" FROM #waxwing_raw AS r) AS j) AS j) AS j
WHERE j.waxwing_last = 1;
DELETE t
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
WHERE s.waxwing_deleted = 1
OPTION (LOOP JOIN, FORCE ORDER);
DELETE FROM #waxwing_stage WHERE waxwing_gone = 1;
DECLARE @updated int;
UPDATE t
SET "price" = s."price", "at" = s."at", "blob" = s."blob", "version" = s."version", "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @updated = @@ROWCOUNT;
IF @updated <> (SELECT COUNT(*) FROM #waxwing_stage)
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT s."id", s."price", s."at", s."blob", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- merge
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, "id" nvarchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "price" decimal(10, 2) NULL, "at" datetimeoffset(7) NULL, "blob" varbinary(max) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, "id", "price", "at", "blob", "version")
SELECT j.waxwing_n, j."id", j."price", CAST(j."at" AS datetimeoffset(7)), CONVERT(varbinary(max), j."blob", 2), j."version"
FROM (SELECT j.waxwing_n, FIRST_VALUE(j."id") OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY j.waxwing_n) AS "id", SUM(j."price") OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS) AS "price", MAX(CAST(j."at" AS datetimeoffset(7))) OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS) AS "at", j."blob", MIN(j."version") OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS) AS "version", ROW_NUMBER() OVER (PARTITION BY j."id" COLLATE Latin1_General_CI_AS ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', "id" nvarchar(37) '$[1]', "price" decimal(10, 2) '$[2]', "at" nvarchar(40) '$[3]', "blob" nvarchar(max) '$[4]', "version" int '$[5]') AS j) AS j
WHERE j.waxwing_last = 1;
DECLARE @merged int;
UPDATE t
SET "price" = coalesce(t."price" + s."price", t."price", s."price"), "at" = CASE WHEN s."at" IS NULL OR t."at" >= s."at" THEN t."at" ELSE s."at" END, "blob" = s."blob", "version" = CASE WHEN s."version" IS NULL OR t."version" <= s."version" THEN t."version" ELSE s."version" END, "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @merged = @@ROWCOUNT;
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT s."id", s."price", s."at", s."blob", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @merged = @merged + @@ROWCOUNT;
IF @merged <> (SELECT COUNT(*) FROM #waxwing_stage)
  THROW 51903, N'Another writer inserted a key meanwhile.', 1;
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- merge: keys that are known to differ
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage ("id" nvarchar(36) COLLATE Latin1_General_CI_AS NOT NULL, "price" decimal(10, 2) NULL, "at" datetimeoffset(7) NULL, "blob" varbinary(max) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage ("id", "price", "at", "blob", "version")
SELECT j."id", j."price", CAST(j."at" AS datetimeoffset(7)), CONVERT(varbinary(max), j."blob", 2), j."version"
FROM OPENJSON(?) WITH ("id" nvarchar(37) '$[0]', "price" decimal(10, 2) '$[1]', "at" nvarchar(40) '$[2]', "blob" nvarchar(max) '$[3]', "version" int '$[4]') AS j;
DECLARE @merged int;
UPDATE t
SET "price" = coalesce(t."price" + s."price", t."price", s."price"), "at" = CASE WHEN s."at" IS NULL OR t."at" >= s."at" THEN t."at" ELSE s."at" END, "blob" = s."blob", "version" = CASE WHEN s."version" IS NULL OR t."version" <= s."version" THEN t."version" ELSE s."version" END, "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @merged = @@ROWCOUNT;
INSERT INTO "my shop".orders ("id", "price", "at", "blob", "version")
SELECT s."id", s."price", s."at", s."blob", s."version"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @merged = @merged + @@ROWCOUNT;
IF @merged <> (SELECT COUNT(*) FROM #waxwing_stage)
  THROW 51903, N'Another writer inserted a key meanwhile.', 1;
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- merge with a mean
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, "id" int NOT NULL, "price" decimal(10, 2) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, "id", "price", "version")
SELECT j.waxwing_n, j."id", j."price", j."version"
FROM (SELECT j.waxwing_n, j."id", SUM(j."price") OVER (PARTITION BY j."id") AS "price", SUM(j."version") OVER (PARTITION BY j."id") AS "version", ROW_NUMBER() OVER (PARTITION BY j."id" ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', "id" int '$[1]', "price" decimal(10, 2) '$[2]', "version" int '$[3]') AS j) AS j
WHERE j.waxwing_last = 1;
DECLARE @merged int;
UPDATE t
SET "price" = coalesce(t."price" + s."price", t."price", s."price"), "version" = coalesce(t."version" + s."version", t."version", s."version"), "mean" = coalesce(t."price" + s."price", t."price", s."price") / CAST(NULLIF(coalesce(t."version" + s."version", t."version", s."version"), 0) AS decimal(19, 0)), "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @merged = @@ROWCOUNT;
SET IDENTITY_INSERT "my shop".orders ON;
INSERT INTO "my shop".orders ("id", "price", "version", "mean")
SELECT s."id", s."price", s."version", s."price" / CAST(NULLIF(s."version", 0) AS decimal(19, 0))
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @merged = @merged + @@ROWCOUNT;
SET IDENTITY_INSERT "my shop".orders OFF;
IF @merged <> (SELECT COUNT(*) FROM #waxwing_stage)
  THROW 51903, N'Another writer inserted a key meanwhile.', 1;
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- merge with a mean: keys that are known to differ
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage ("id" int NOT NULL, "price" decimal(10, 2) NULL, "version" int NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage ("id", "price", "version")
SELECT j."id", j."price", j."version"
FROM OPENJSON(?) WITH ("id" int '$[0]', "price" decimal(10, 2) '$[1]', "version" int '$[2]') AS j;
DECLARE @merged int;
UPDATE t
SET "price" = coalesce(t."price" + s."price", t."price", s."price"), "version" = coalesce(t."version" + s."version", t."version", s."version"), "mean" = coalesce(t."price" + s."price", t."price", s."price") / CAST(NULLIF(coalesce(t."version" + s."version", t."version", s."version"), 0) AS decimal(19, 0)), "updated_at" = CURRENT_TIMESTAMP
FROM #waxwing_stage AS s INNER JOIN "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @merged = @@ROWCOUNT;
SET IDENTITY_INSERT "my shop".orders ON;
INSERT INTO "my shop".orders ("id", "price", "version", "mean")
SELECT s."id", s."price", s."version", s."price" / CAST(NULLIF(s."version", 0) AS decimal(19, 0))
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "my shop".orders AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET @merged = @merged + @@ROWCOUNT;
SET IDENTITY_INSERT "my shop".orders OFF;
IF @merged <> (SELECT COUNT(*) FROM #waxwing_stage)
  THROW 51903, N'Another writer inserted a key meanwhile.', 1;
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- identity, key columns alone
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, "id" int NOT NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, "id")
SELECT j.waxwing_n, j."id"
FROM (SELECT j.waxwing_n, j."id", ROW_NUMBER() OVER (PARTITION BY j."id" ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', "id" int '$[1]') AS j) AS j
WHERE j.waxwing_last = 1;
SET IDENTITY_INSERT "odd ""name]" ON;
INSERT INTO "odd ""name]" ("id")
SELECT s."id"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "odd ""name]" AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET IDENTITY_INSERT "odd ""name]" OFF;
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- identity, key columns alone: keys that are known to differ
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage ("id" int NOT NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage ("id")
SELECT j."id"
FROM OPENJSON(?) WITH ("id" int '$[0]') AS j;
SET IDENTITY_INSERT "odd ""name]" ON;
INSERT INTO "odd ""name]" ("id")
SELECT s."id"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "odd ""name]" AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET IDENTITY_INSERT "odd ""name]" OFF;
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;

-- ---- identity, key columns alone: with deletes
SET NOCOUNT ON;
CREATE TABLE #waxwing_stage (waxwing_n int NOT NULL, waxwing_gone int NOT NULL, waxwing_deleted int NOT NULL, "id" int NOT NULL, PRIMARY KEY ("id"));
INSERT INTO #waxwing_stage (waxwing_n, waxwing_gone, waxwing_deleted, "id")
SELECT j.waxwing_n, j.waxwing_gone, j.waxwing_deleted, j."id"
FROM (SELECT j.waxwing_n, j.waxwing_gone, j."id", CASE WHEN j.waxwing_until < 0 THEN 0 ELSE 1 END AS waxwing_deleted, ROW_NUMBER() OVER (PARTITION BY j."id" ORDER BY j.waxwing_n DESC) AS waxwing_last
  FROM (SELECT j.*, MAX(CASE j.waxwing_gone WHEN 1 THEN j.waxwing_n ELSE -1 END) OVER (PARTITION BY j."id") AS waxwing_until
  FROM OPENJSON(?) WITH (waxwing_n int '$[0]', waxwing_gone int '$[1]', "id" int '$[2]') AS j) AS j) AS j
WHERE j.waxwing_last = 1;
DELETE t
FROM #waxwing_stage AS s INNER JOIN "odd ""name]" AS t WITH (UPDLOCK, ROWLOCK) ON t."id" = s."id"
WHERE s.waxwing_deleted = 1
OPTION (LOOP JOIN, FORCE ORDER);
DELETE FROM #waxwing_stage WHERE waxwing_gone = 1;
SET IDENTITY_INSERT "odd ""name]" ON;
INSERT INTO "odd ""name]" ("id")
SELECT s."id"
FROM #waxwing_stage AS s
WHERE NOT EXISTS (SELECT 1 FROM "odd ""name]" AS t WITH (UPDLOCK, ROWLOCK) WHERE t."id" = s."id")
ORDER BY s."id"
OPTION (LOOP JOIN, FORCE ORDER);
SET IDENTITY_INSERT "odd ""name]" OFF;
DROP TABLE #waxwing_stage;
SET NOCOUNT OFF;
