// The exclude patterns of a folder, and a preview of their effect.

import { Loader, Stack, Table, Text, Textarea } from "@mantine/core";
import { useEffect, useState } from "react";

import { usePreview } from "../api/queries";
import { bytes, counted } from "../lib/format";
import { patterns } from "../lib/patterns";
import { FileName, ErrorBox } from "./basics";

export function Excludes({
  path,
  value,
  onChange,
}: {
  path: string;
  value: string;
  onChange: (text: string) => void;
}) {
  const [requested, setRequested] = useState({ path, exclude: patterns(value) });
  useEffect(() => {
    const timer = setTimeout(() => setRequested({ path, exclude: patterns(value) }), 400);
    return () => clearTimeout(timer);
  }, [path, value]);
  const preview = usePreview(requested.path, requested.exclude, requested.path.startsWith("/"));
  const found = preview.data;
  return (
    <Stack gap="xs">
      <Textarea
        label="Exclude"
        description="One pattern per line, as in .gitignore: *.tmp, node_modules/, /build. Patterns in files named .archivistignore apply as well."
        value={value}
        onChange={(event) => onChange(event.currentTarget.value)}
        autosize
        minRows={2}
        maxRows={8}
        spellCheck={false}
        styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)" } }}
      />
      <div aria-live="polite">
        {preview.isFetching && <Loader size="xs" aria-label="Scanning the folder" />}
        {preview.isError && <ErrorBox error={preview.error} />}
        {!preview.isError && found && (
          <>
            <Text size="sm">
              Backed up: {counted(found.files, "file")}, {bytes(found.bytes)}. Excluded:{" "}
              {counted(found.excluded_files, "file")}, {bytes(found.excluded_bytes)}.
              {found.is_cut_short &&
                " The folder is large: only a part of it was scanned, so the totals are higher."}
            </Text>
            {found.excluded.length > 0 && (
              <div
                className="scroll"
                style={{ maxHeight: 180, overflowY: "auto" }}
                tabIndex={0}
                role="group"
                aria-label="Excluded entries"
              >
                <Table verticalSpacing={4} fz="sm">
                  <Table.Thead>
                    <Table.Tr>
                      <Table.Th>Largest excluded entries</Table.Th>
                      <Table.Th ta="right">Size</Table.Th>
                    </Table.Tr>
                  </Table.Thead>
                  <Table.Tbody>
                    {found.excluded.map((one) => (
                      <Table.Tr key={one.path}>
                        <Table.Td>
                          <FileName name={one.is_dir ? `${one.path}/` : one.path} />
                        </Table.Td>
                        <Table.Td ta="right" style={{ whiteSpace: "nowrap" }}>
                          {bytes(one.bytes)}
                        </Table.Td>
                      </Table.Tr>
                    ))}
                  </Table.Tbody>
                </Table>
              </div>
            )}
          </>
        )}
      </div>
    </Stack>
  );
}
