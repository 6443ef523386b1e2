// What a folder leaves out, and what that comes to.

import { Loader, Stack, Table, Text, Textarea } from "@mantine/core";
import { useEffect, useState } from "react";

import { usePreview } from "../api/queries";
import { bytes, counted } from "../lib/format";
import { patterns } from "../lib/patterns";
import { FileName, Trouble } from "./basics";

export function Excludes({
  path,
  value,
  onChange,
}: {
  path: string;
  value: string;
  onChange: (text: string) => void;
}) {
  const [asked, setAsked] = useState({ path, exclude: patterns(value) });
  useEffect(() => {
    const timer = setTimeout(() => setAsked({ path, exclude: patterns(value) }), 400);
    return () => clearTimeout(timer);
  }, [path, value]);
  const preview = usePreview(asked.path, asked.exclude, asked.path.startsWith("/"));
  const found = preview.data;
  return (
    <Stack gap="xs">
      <Textarea
        label="Leave out"
        description="One pattern a line, as in .gitignore: *.tmp, node_modules/, /build. Files named .archivistignore count too."
        value={value}
        onChange={(event) => onChange(event.currentTarget.value)}
        autosize
        minRows={2}
        maxRows={8}
        spellCheck={false}
        styles={{ input: { fontFamily: "var(--mantine-font-family-monospace)" } }}
      />
      <div aria-live="polite">
        {preview.isFetching && <Loader size="xs" aria-label="Looking through the folder" />}
        {preview.isError && <Trouble error={preview.error} />}
        {!preview.isError && found && (
          <>
            <Text size="sm">
              Backed up: {counted(found.files, "file")}, {bytes(found.bytes)}. Left out:{" "}
              {counted(found.excluded_files, "file")}, {bytes(found.excluded_bytes)}.
              {found.is_cut_short &&
                " The folder is large: only a part of it was looked at, so all is more than this."}
            </Text>
            {found.excluded.length > 0 && (
              <div
                className="scroll"
                style={{ maxHeight: 180, overflowY: "auto" }}
                tabIndex={0}
                role="group"
                aria-label="What is left out"
              >
                <Table verticalSpacing={4} fz="sm">
                  <Table.Thead>
                    <Table.Tr>
                      <Table.Th>Largest that are left out</Table.Th>
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
