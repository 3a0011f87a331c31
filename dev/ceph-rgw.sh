#!/usr/bin/env bash
# Ceph RADOS Gateway on loopback: one monitor, one in-memory OSD (memstore), one radosgw; no cephx, no systemd.
#   ceph-rgw.sh [start|stop|status|wipe]
#   env: S3LAB_DIR (${TMPDIR:-/tmp}/s3lab/run-ceph) S3LAB_PORT (18480; https on PORT+1) S3LAB_BUCKET (demo)
# The store uses memory as it fills, up to 8 GiB. Writes to a full store wait, because nothing is reclaimed.
# Idempotent: does nothing if it runs already, else creates an empty store. Stops only the processes that it started.
set -euo pipefail
DIR=${S3LAB_DIR:-${TMPDIR:-/tmp}/s3lab/run-ceph}; PORT=${S3LAB_PORT:-18480}; MON=$((PORT+2)); BUCKET=${S3LAB_BUCKET:-demo}
FULL_ID=AKIALABFULL000000000;   FULL_SECRET=full-secret-0123456789
PUT_ID=AKIALABPUTONLY000000;    PUT_SECRET=putonly-secret-0123456789
READ_ID=AKIALABREADONLY00000;   READ_SECRET=readonly-secret-0123456789
NONE_ID=AKIALABNOTHING000000;   NONE_SECRET=nothing-secret-0123456789
export CEPH_CONF=$DIR/ceph.conf CEPH_ARGS=
URL=http://127.0.0.1:$PORT
alive() { local p; p=$(cat "$1" 2>/dev/null) || return 1
  [ -n "$p" ] && { tr '\0' ' ' <"/proc/$p/cmdline"; } 2>/dev/null | grep -q "$DIR/"; }
stop() { local n p; for n in rgw osd mon; do
    if alive "$DIR/$n.pid"; then p=$(cat "$DIR/$n.pid"); kill "$p" 2>/dev/null || :
      for _ in $(seq 80); do alive "$DIR/$n.pid" || break; sleep .1; done; alive "$DIR/$n.pid" && kill -9 "$p" || :; fi
    rm -f "$DIR/$n.pid"; done; }
wait_for() { local what=$1 n=$2; shift 2; for _ in $(seq "$n"); do "$@" >/dev/null 2>&1 && return 0; sleep .2; done
  echo "timed out: $what; see $DIR/log" >&2; tail -n 5 "$DIR"/log/*.out >&2 || :; stop; exit 1; }
say() { cat <<X
endpoint=$URL (also https://127.0.0.1:$((PORT+1)), CA $DIR/tls.crt) region=us-east-1 bucket=$BUCKET
full     $FULL_ID $FULL_SECRET
put-only $PUT_ID $PUT_SECRET
read-only $READ_ID $READ_SECRET
nothing  $NONE_ID $NONE_SECRET
X
}
installed() { local p; for p; do [ "$(dpkg-query -Wf '${db:Status-Abbrev}' "$p" 2>/dev/null)" = "ii " ] || return 1; done; }
case "${1:-start}" in
  stop) stop; exit 0;;
  wipe) stop; rm -rf "$DIR"; exit 0;;
  status) for n in mon osd rgw; do alive "$DIR/$n.pid" && echo "$n up $(cat "$DIR/$n.pid")" || echo "$n down"; done; exit 0;;
esac
if [ -f "$DIR/ready" ] && alive "$DIR/mon.pid" && alive "$DIR/osd.pid" && alive "$DIR/rgw.pid"; then say; exit 0; fi
if ! installed ceph-mon ceph-osd radosgw ceph-common; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ceph-mon ceph-osd radosgw ceph-common >/dev/null
fi
stop; rm -rf "$DIR"; mkdir -p "$DIR"/{mon,osd,rgw,run,log}
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1,DNS:localhost \
  -keyout "$DIR/tls.key" -out "$DIR/tls.crt" 2>/dev/null; cat "$DIR/tls.crt" "$DIR/tls.key" >"$DIR/tls.pem"
FSID=$(cat /proc/sys/kernel/random/uuid)
cat >"$CEPH_CONF" <<X
[global]
fsid = $FSID
mon host = [v2:127.0.0.1:$MON/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms mon service mode = crc
ms mon cluster mode = crc
run dir = $DIR/run
admin socket = $DIR/run/\$name.\$pid.asok
crash dir = $DIR/run
log file = $DIR/log/\$name.log
keyring = $DIR/keyring
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 2
osd pool default pgp num = 2
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
paxos propose interval = 0.05
paxos min wait = 0.01
mon tick interval = 1
mon data avail warn = 1
mon data avail crit = 1
mon data = $DIR/mon
[osd]
osd data = $DIR/osd
osd objectstore = memstore
memstore device bytes = 8589934592
osd op num shards = 1
osd op num threads per shard = 2
osd class load list = *
osd class default list = *
[client]
rgw data = $DIR/rgw
rgw frontends = beast endpoint=127.0.0.1:$PORT ssl_endpoint=127.0.0.1:$((PORT+1)) ssl_certificate=$DIR/tls.pem
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw thread pool size = 16
rgw rados pool pg num min = 2
X
: >"$DIR/keyring"
run() { local n=$1; shift; setsid nohup "$@" >"$DIR/log/$n.out" 2>&1 </dev/null & echo $! >"$DIR/$n.pid"; }
monmaptool --create --fsid "$FSID" --addv a "[v2:127.0.0.1:$MON/0]" "$DIR/monmap" >/dev/null
ceph-mon -c "$CEPH_CONF" --mkfs -i a --monmap "$DIR/monmap" --keyring "$DIR/keyring"
run mon ceph-mon -c "$CEPH_CONF" -f -i a
wait_for monitor 100 timeout 5 ceph -c "$CEPH_CONF" --connect-timeout 2 quorum_status
OSDU=$(cat /proc/sys/kernel/random/uuid)
ceph -c "$CEPH_CONF" osd new "$OSDU" >/dev/null
ceph-osd -c "$CEPH_CONF" -i 0 --mkfs --osd-uuid "$OSDU" >"$DIR/log/osd-mkfs.out" 2>&1
run osd ceph-osd -c "$CEPH_CONF" -f -i 0
wait_for osd 150 sh -c "timeout 5 ceph -c '$CEPH_CONF' osd stat | grep -q '1 up'"
run rgw radosgw -c "$CEPH_CONF" -f -n client.rgw.lab
wait_for radosgw 300 sh -c "curl -s -o /dev/null '$URL/'"
u() { radosgw-admin -c "$CEPH_CONF" user create --uid="$1" --display-name="$1" --access-key="$2" --secret-key="$3" >>"$DIR/log/users.out" 2>&1; }
u full $FULL_ID $FULL_SECRET; u putonly $PUT_ID $PUT_SECRET; u readonly $READ_ID $READ_SECRET; u nothing $NONE_ID $NONE_SECRET
# Creates the bucket and its policy over S3. Python signs the requests, because --aws-sigv4 of curl 7.88 signs them wrongly.
s3put() { # path-and-query, body file
  /usr/bin/python3 - "$PORT" "$1" "$2" "$FULL_ID" "$FULL_SECRET" <<'PY'
import sys, hashlib, hmac, http.client, datetime
port, target, body, key, secret = sys.argv[1:]
body = open(body, 'rb').read(); path, _, query = target.partition('?')
now = datetime.datetime.utcnow(); t = now.strftime('%Y%m%dT%H%M%SZ'); day = t[:8]; host = '127.0.0.1:' + port
h = hashlib.sha256(body).hexdigest(); scope = day + '/us-east-1/s3/aws4_request'; names = 'host;x-amz-content-sha256;x-amz-date'
canon = '\n'.join(['PUT', path, query, 'host:' + host, 'x-amz-content-sha256:' + h, 'x-amz-date:' + t, '', names, h])
k = ('AWS4' + secret).encode()
for part in scope.split('/'): k = hmac.new(k, part.encode(), 'sha256').digest()
sig = hmac.new(k, '\n'.join(['AWS4-HMAC-SHA256', t, scope, hashlib.sha256(canon.encode()).hexdigest()]).encode(), 'sha256').hexdigest()
c = http.client.HTTPConnection(host, timeout=30)
c.request('PUT', target, body, {'x-amz-content-sha256': h, 'x-amz-date': t,
  'authorization': f'AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={sig}'})
r = c.getresponse(); text = r.read().decode()
if r.status >= 300: sys.exit(f'PUT {target}: {r.status} {text}')
PY
}
s3put "/$BUCKET" /dev/null
cat >"$DIR/policy.json" <<X
{"Version":"2012-10-17","Statement":[
 {"Effect":"Allow","Principal":{"AWS":["arn:aws:iam:::user/putonly"]},"Action":["s3:PutObject","s3:AbortMultipartUpload","s3:ListMultipartUploadParts"],"Resource":["arn:aws:s3:::$BUCKET/*"]},
 {"Effect":"Deny","Principal":{"AWS":["arn:aws:iam:::user/putonly"]},"Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::$BUCKET"]},
 {"Effect":"Allow","Principal":{"AWS":["arn:aws:iam:::user/readonly"]},"Action":["s3:ListBucket","s3:GetBucketLocation"],"Resource":["arn:aws:s3:::$BUCKET"]},
 {"Effect":"Allow","Principal":{"AWS":["arn:aws:iam:::user/readonly"]},"Action":["s3:GetObject"],"Resource":["arn:aws:s3:::$BUCKET/*"]}]}
X
s3put "/$BUCKET?policy=" "$DIR/policy.json"
touch "$DIR/ready"; say
