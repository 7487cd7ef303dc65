#!/usr/bin/env python3
"""Runs the official OSS SDKs for Python against a test server.

Both SDKs (alibabacloud-oss-v2 and oss2) list, stat and read the objects named on the command line, with both signature
versions, with and without a security token, in path style and with the bucket in the host name. Object contents are
recomputed here, so the script checks the server's computed objects as well. Prints one line a check and a summary;
the exit status is 0 only if all passed.
"""

import argparse
import functools
import socket
import sys

try:
    import alibabacloud_oss_v2
    import alibabacloud_oss_v2.crc
    import oss2
except ImportError as error:
    sys.exit(f"{error}: run `cargo xtask setup`, which installs the official SDKs")

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
NO_ZERO = 0x0101010101010101
PAGE = 7


def seed_of(key):
    """The seed of a computed object that names none: FNV-1a of its key."""
    value = 0xCBF29CE484222325
    for byte in key.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


@functools.cache
def content(key, size):
    """The whole computed object."""
    spread = ((seed_of(key) + 1) * 0xD6E8FEB86659FD93) & MASK
    spread = ((spread ^ spread >> 32) * 0xD6E8FEB86659FD93) & MASK
    state = spread ^ spread >> 29
    words = bytearray()
    for _ in range(0, size, 8):
        mixed = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & MASK
        words += ((mixed ^ mixed >> 31) | NO_ZERO).to_bytes(8, "little")
        state = (state + GOLDEN) & MASK
    return bytes(words[:size])


class NotFound(Exception):
    """The server said 404 NoSuchKey and the SDK understood it."""


class V2:
    """alibabacloud-oss-v2."""

    def __init__(self, endpoint, region, bucket, version, key):
        config = alibabacloud_oss_v2.config.load_default()
        config.credentials_provider = alibabacloud_oss_v2.credentials.StaticCredentialsProvider(*key)
        config.region, config.endpoint, config.signature_version = region, endpoint, version
        config.disable_ssl = endpoint.startswith("http://")
        self.client, self.bucket = alibabacloud_oss_v2.Client(config), bucket

    def list(self, prefix, delimiter):
        request = alibabacloud_oss_v2.ListObjectsV2Request(
            bucket=self.bucket, prefix=prefix, delimiter=delimiter, max_keys=PAGE
        )
        keys, prefixes = [], []
        for page in self.client.list_objects_v2_paginator().iter_page(request):
            keys += [(entry.key, entry.size, entry.etag) for entry in page.contents or []]
            prefixes += [entry.prefix for entry in page.common_prefixes or []]
        return keys, prefixes

    def head(self, key):
        request = alibabacloud_oss_v2.HeadObjectRequest(bucket=self.bucket, key=key)
        result = self._understood(lambda: self.client.head_object(request))
        return result.content_length, result.etag

    def meta(self, key):
        request = alibabacloud_oss_v2.GetObjectMetaRequest(bucket=self.bucket, key=key)
        result = self._understood(lambda: self.client.get_object_meta(request))
        return result.content_length, result.etag

    def read(self, key, first, last):
        request = alibabacloud_oss_v2.GetObjectRequest(
            bucket=self.bucket, key=key, range_header=f"bytes={first}-{last}", range_behavior="standard"
        )
        result = self._understood(lambda: self.client.get_object(request))
        return result.body.content, result.content_range

    def read_all(self, key):
        request = alibabacloud_oss_v2.GetObjectRequest(bucket=self.bucket, key=key)
        result = self._understood(lambda: self.client.get_object(request))
        data = result.body.content
        crc = alibabacloud_oss_v2.crc.Crc64(0)
        crc.update(data)
        assert str(crc.sum64()) == str(result.hash_crc64), f"CRC-64 is {crc.sum64()}, the server says {result.hash_crc64}"
        return data

    @staticmethod
    def _understood(call):
        try:
            return call()
        except alibabacloud_oss_v2.exceptions.OperationError as error:
            cause = error.unwrap()
            if getattr(cause, "code", None) == "NoSuchKey" and cause.status_code == 404:
                raise NotFound from error
            raise


class V1:
    """oss2."""

    def __init__(self, endpoint, region, bucket, version, key):
        if len(key) == 3:
            auth = oss2.StsAuth(*key, auth_version=version)
        else:
            auth = oss2.AuthV4(*key) if version == "v4" else oss2.Auth(*key)
        self.bucket = oss2.Bucket(auth, endpoint, bucket, region=region)

    def list(self, prefix, delimiter):
        keys, prefixes, token = [], [], ""
        while True:
            page = self.bucket.list_objects_v2(prefix, delimiter, token, max_keys=PAGE)
            keys += [(entry.key, entry.size, f'"{entry.etag}"') for entry in page.object_list]
            prefixes += page.prefix_list
            if not page.is_truncated:
                return keys, prefixes
            token = page.next_continuation_token

    def head(self, key):
        result = self._understood(lambda: self.bucket.head_object(key))
        return result.content_length, f'"{result.etag}"'

    def meta(self, key):
        result = self._understood(lambda: self.bucket.get_object_meta(key))
        return result.content_length, f'"{result.etag}"'

    def read(self, key, first, last):
        headers = {"x-oss-range-behavior": "standard"}
        result = self._understood(lambda: self.bucket.get_object(key, byte_range=(first, last), headers=headers))
        return result.read(), result.content_range

    def read_all(self, key):
        result = self._understood(lambda: self.bucket.get_object(key))
        data = result.read()
        oss2.utils.check_crc("get object", result.client_crc, result.server_crc, result.request_id)
        return data

    @staticmethod
    def _understood(call):
        try:
            return call()
        except oss2.exceptions.NotFound as error:
            # oss2 does not read x-oss-err: a HEAD tells it the status only.
            if error.code in ("NoSuchKey", ""):
                raise NotFound from error
            raise


def check_list(sdk, objects, prefix):
    keys, prefixes = sdk.list(prefix, "")
    assert [(key, size) for key, size, _ in keys] == sorted(objects.items(), key=lambda item: item[0].encode())
    assert prefixes == []
    keys, prefixes = sdk.list(prefix, "/")
    direct = [key for key in objects if "/" not in key[len(prefix) :]]
    below = {prefix + key[len(prefix) :].split("/")[0] + "/" for key in objects if key not in direct}
    assert sorted(key for key, _, _ in keys) == sorted(direct), keys
    assert sorted(prefixes) == sorted(below), prefixes


def check_stat(sdk, objects, prefix):
    etags = {key: etag for key, _, etag in sdk.list(prefix, "")[0]}
    for key, size in objects.items():
        assert sdk.head(key) == (size, etags[key]), key
        assert sdk.meta(key) == (size, etags[key]), key


def check_range(sdk, objects, _prefix):
    for key, size in objects.items():
        data = content(key, size)
        for first, last in [(0, 0), (size // 3, size // 2), (size - 1, size - 1), (size // 2, size + 100)]:
            if 0 <= first < size:
                found, place = sdk.read(key, first, last)
                end = min(last, size - 1)
                assert place == f"bytes {first}-{end}/{size}", (key, place)
                assert found == data[first : end + 1], (key, first, last)


def check_whole(sdk, objects, _prefix):
    for key, size in objects.items():
        assert sdk.read_all(key) == content(key, size), key


def check_missing(sdk, _objects, prefix):
    for name in ("head", "meta", "read_all"):
        try:
            getattr(sdk, name)(prefix + "missing")
        except NotFound:
            continue
        raise AssertionError(f"{name} of a missing key did not fail")


CHECKS = [check_list, check_stat, check_range, check_whole, check_missing]


def resolve_localhost():
    """Makes *.localhost the loopback address, which not every resolver does by itself."""
    original = socket.getaddrinfo

    def getaddrinfo(host, *rest, **named):
        return original("127.0.0.1" if str(host).endswith(".localhost") else host, *rest, **named)

    socket.getaddrinfo = getaddrinfo


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", required=True, type=int, help="port of the server on 127.0.0.1")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--ak", required=True, help="access key id")
    parser.add_argument("--sk", required=True, help="access key secret")
    parser.add_argument("--sts-ak", required=True, help="id of a temporary access key")
    parser.add_argument("--sts-sk", required=True, help="secret of the temporary key")
    parser.add_argument("--sts-token", required=True, help="security token of the temporary key")
    parser.add_argument("--prefix", default="", help="prefix of all objects")
    parser.add_argument(
        "--object", action="append", required=True, metavar="KEY=SIZE", help="a computed object; all of them, please"
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    resolve_localhost()
    objects = {}
    for spec in arguments.object:
        key, _, size = spec.rpartition("=")
        objects[key] = int(size)
    endpoints = {"path": f"http://127.0.0.1:{arguments.port}", "host": f"http://oss.localhost:{arguments.port}"}
    keys = {
        "key": (arguments.ak, arguments.sk),
        "sts": (arguments.sts_ak, arguments.sts_sk, arguments.sts_token),
    }
    passed = failed = 0
    for sdk_name, sdk_class in (("alibabacloud-oss-v2", V2), ("oss2", V1)):
        for version in ("v4", "v1"):
            for key_name, key in keys.items():
                for style, endpoint in endpoints.items():
                    sdk = sdk_class(endpoint, arguments.region, arguments.bucket, version, key)
                    for check in CHECKS:
                        name = f"{sdk_name} {version} {key_name} {style} {check.__name__.removeprefix('check_')}"
                        try:
                            check(sdk, objects, arguments.prefix)
                        except Exception as error:  # pylint: disable=broad-except
                            failed += 1
                            print(f"FAILED {name}: {type(error).__name__}: {error}")
                        else:
                            passed += 1
                            print(f"passed {name}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
