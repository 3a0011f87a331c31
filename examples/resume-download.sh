#!/usr/bin/env bash
# Downloads an export with curl, and continues an interrupted download.
#
#   WAREHOUSE_EXPORT_URL=https://export.example.com WAREHOUSE_EXPORT_TOKEN=whx_… \
#     bash examples/resume-download.sh acme 6-months-weekly.csv.gz
#
# Run the same command again after an interruption. The file `….etag` belongs to the bytes so far.
set -euo pipefail

environment=$1
file=$2
url=$WAREHOUSE_EXPORT_URL/v1/environments/$environment/exports/$file
curl=(curl --silent --show-error --fail -H "Authorization: Bearer $WAREHOUSE_EXPORT_TOKEN")

# Prints a header of the answer to HEAD.
header() {
  tr -d '\r' <"$headers" | awk -v name="$1:" 'tolower($1) == name { sub(/^[^ ]* /, ""); print }'
}

headers=$(mktemp)
trap 'rm -f "$headers"' EXIT

# Bytes of an earlier version of the file are discarded.
"${curl[@]}" --head "$url" --output "$headers"
etag=$(header etag)
size=$(header content-length)
if [ "$(cat "$file.etag" 2>/dev/null)" != "$etag" ]; then
  rm -f "$file"
  printf '%s\n' "$etag" >"$file.etag"
fi

received=0
if [ -f "$file" ]; then received=$(wc -c <"$file" | tr -d ' '); fi
if [ -z "$size" ]; then
  # A snapshot is not rendered yet, so there is no length and no range. Download the whole file.
  rm -f "$file"
  "${curl[@]}" "$url" --output "$file"
elif [ "$received" -lt "$size" ]; then
  # curl requests the rest with `Range`. If the file was replaced, `If-Range` makes the service send
  # the whole file. curl then fails with exit code 33.
  "${curl[@]}" --continue-at - -H "If-Range: $etag" "$url" --output "$file"
fi

received=$(wc -c <"$file" | tr -d ' ')
if [ -n "$size" ] && [ "$received" != "$size" ]; then
  echo "$file has $received of $size bytes. Run the command again." >&2
  exit 1
fi
rm -f "$file.etag"
echo "$file: $received bytes"
