import ipaddr from 'ipaddr.js';

/** At least one address of each forbidden kind. */
const forbidden = [
  '127.0.0.1',
  '127.255.255.254',
  '10.0.0.1',
  '172.16.0.1',
  '172.31.255.255',
  '192.168.1.1',
  '169.254.169.254',
  '169.254.170.2',
  '100.64.0.1',
  '100.100.100.200',
  '168.63.129.16',
  '0.0.0.0',
  '0.1.2.3',
  '192.0.0.192',
  '192.0.2.1',
  '198.18.0.1',
  '198.51.100.7',
  '203.0.113.9',
  '192.88.99.1',
  '224.0.0.1',
  '240.0.0.1',
  '255.255.255.255',
];

const forbidden6 = [
  '::',
  '::1',
  'fe80::1',
  'fec0::1',
  'fc00::1',
  'fd00:ec2::254',
  'fd20:ce::254',
  'ff02::1',
  '100::1',
  '2001::1',
  '2001:db8::1',
  '2001:10::1',
  '2001:2::1',
  '3fff::1',
  '5f00::1',
  '64:ff9b:1::1',
  '0:0:0:0:0:0:0:1',
  '::ffff:0:7f00:1',
  '4000::1',
];

/** Returns the ways to write an IPv4 address in a URL, including IPv6 addresses that embed it. */
function spellings(address: string): string[] {
  const bytes = ipaddr.parse(address).toByteArray() as [number, number, number, number];
  const [a, b, c, d] = bytes;
  const whole = ((a * 256 + b) * 256 + c) * 256 + d;
  const hex = (value: number) => `0x${value.toString(16)}`;
  const octal = (value: number) => `0${value.toString(8)}`;
  const words = `${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
  const fullWidth = address.replace(/\d/g, digit => String.fromCharCode(0xff10 + Number(digit)));
  return [
    address,
    `${address}.`,
    `${whole}`,
    hex(whole),
    hex(whole).toUpperCase().replace('0X', '0x'),
    octal(whole),
    bytes.map(hex).join('.'),
    bytes.map(octal).join('.'),
    `${a}.${(b * 256 + c) * 256 + d}`,
    `${hex(a)}.${octal(b)}.${c * 256 + d}`,
    bytes.map(byte => `00${octal(byte)}`).join('.'),
    [...address].map(character => `%${character.charCodeAt(0).toString(16)}`).join(''),
    fullWidth,
    address.replaceAll('.', '。'),
    `[::ffff:${address}]`,
    `[::FFFF:${words}]`,
    `[0:0:0:0:0:ffff:${words}]`,
    `[::${words}]`,
    `[64:ff9b::${words}]`,
    `[64:ff9b:1::${words}]`,
    `[2002:${words}::]`,
    `[2002:${words}::1]`,
  ];
}

/** Returns every forbidden address in every spelling that a URL may contain. */
export function forbiddenHosts(): string[] {
  return [
    ...forbidden.flatMap(spellings),
    ...forbidden6.flatMap(address => [
      `[${address}]`,
      `[${ipaddr.parse(address).toNormalizedString().toUpperCase()}]`,
    ]),
  ];
}
