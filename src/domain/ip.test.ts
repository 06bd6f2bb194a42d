import { describe, expect, test } from "vitest";
import { canonicalIp, cidrContains, familyOf, ipBytes, parseCidr, specialUse } from "./ip.js";

describe("canonicalIp", () => {
  // RFC 5952, section 4, and its examples.
  test.each([
    ["10.0.0.7", "10.0.0.7"],
    ["255.255.255.255", "255.255.255.255"],
    ["2001:db8::1", "2001:db8::1"],
    ["2001:DB8:0:0:0:0:2:1", "2001:db8::2:1"],
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["2001:0:0:1:0:0:0:1", "2001:0:0:1::1"],
    ["2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["0:0:0:0:0:0:0:0", "::"],
    ["::0001", "::1"],
    ["fe80::", "fe80::"],
    ["1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"],
    // An IPv4-mapped address is the IPv4 address, however it is written.
    ["::ffff:10.0.0.1", "10.0.0.1"],
    ["::FFFF:A00:1", "10.0.0.1"],
    ["0:0:0:0:0:ffff:0a00:0001", "10.0.0.1"],
    ["64:ff9b::192.0.2.33", "64:ff9b::c000:221"],
    ["::10.0.0.1", "::a00:1"],
    ["1:2:3:4:5:6:7.8.9.10", "1:2:3:4:5:6:708:90a"],
  ])("%s is %s", (text, canonical) => expect(canonicalIp(text)).toBe(canonical));

  test.each([
    "",
    "10.0.0",
    "10.0.0.256",
    "010.0.0.1",
    "10.0.0.1.1",
    "10.0.0.-1",
    "1e1.0.0.1",
    " 10.0.0.1",
    "::ffff:10.0.0.256",
    "::ffff:10.0.0",
    "10.0.0.1::",
    "::10.0.0.1:1",
    "1:2:3:4:5:6:7:10.0.0.1",
    "::ffff:10.0.0.1%eth0",
    "fe80::1%eth0",
    "1::2::3",
    "1:2:3:4:5:6:7",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4::5:6:7:8",
    "12345::",
    ":1",
    "g::",
    "localhost",
  ])("%j is no address", (text) => {
    expect(canonicalIp(text)).toBeUndefined();
    expect(ipBytes(text)).toBeUndefined();
  });
});

describe("parseCidr", () => {
  test.each([
    ["10.1.2.3", "10.1.2.3", 32],
    ["10.1.2.3/8", "10.0.0.0", 8],
    ["10.1.2.3/31", "10.1.2.2", 31],
    ["10.1.2.3/0", "0.0.0.0", 0],
    ["fd00:1:2::3/33", "fd00:1::", 33],
    ["fd00::1", "fd00::1", 128],
    ["::/0", "::", 0],
    // Networks of IPv4-mapped addresses are IPv4's; wider ones are not.
    ["::ffff:10.1.2.3", "10.1.2.3", 32],
    ["::ffff:10.1.2.3/112", "10.1.0.0", 16],
    ["::ffff:0:0/96", "0.0.0.0", 0],
    ["::ffff:10.1.2.3/95", "::fffe:0:0", 95],
  ])("%s is %s/%i", (text, address, length) => expect(parseCidr(text)).toEqual({ address, length }));

  test.each([
    "10.0.0.0/33",
    "fd00::/129",
    "10.0.0.0/",
    "10.0.0.0/-1",
    "10.0.0.0/08",
    "10.0.0.0/8/8",
    "/8",
    "x/8",
  ])("%j is no network", (text) => expect(parseCidr(text)).toBeUndefined());
});

test.each([
  ["10.0.0.0/8", "10.255.0.1", true],
  ["10.0.0.0/8", "11.0.0.1", false],
  ["0.0.0.0/0", "1.2.3.4", true],
  ["0.0.0.0/0", "::1", false],
  ["10.0.0.4/30", "10.0.0.7", true],
  ["10.0.0.4/30", "10.0.0.8", false],
  ["fd00::/64", "fd00::ffff", true],
  ["fd00::/64", "fd00:0:0:1::", false],
  ["fd00::/64", "nothing", false],
  ["::ffff:10.0.0.0/104", "10.1.2.3", true],
  ["10.0.0.0/8", "::ffff:10.1.2.3", true],
  ["::/0", "::ffff:10.1.2.3", false],
])("%s contains %s: %s", (cidr, ip, contained) => expect(cidrContains(parseCidr(cidr)!, ip)).toBe(contained));

test.each([
  ["127.0.0.1", "loopback"],
  ["::1", "loopback"],
  ["::ffff:127.0.0.1", "loopback"],
  ["::", "unspecified"],
  ["0.0.0.0", "unspecified"],
  ["169.254.169.254", "link-local"],
  ["febf::1", "link-local"],
  ["224.0.0.1", "multicast"],
  ["ff02::1", "multicast"],
  ["10.0.0.1", undefined],
  ["fd00::1", undefined],
  ["fec0::1", undefined],
])("%s is %s", (ip, what) => expect(specialUse(ip)).toBe(what));

test.each([
  ["10.0.0.1", "IPv4"],
  ["fd00::1", "IPv6"],
])("%s is of %s", (ip, family) => expect(familyOf(ip)).toBe(family));
